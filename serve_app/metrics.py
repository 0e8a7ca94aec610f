"""Metrics for an operator's dashboards: counters and histograms over Ray's own metrics export."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from serve_app.tasks.task import Task
from serve_app.tasks.webhook import DeliveryState

_SECONDS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600]


class TaskMetrics:
    """Metrics of tasks by model: final states, queue wait, stage times, retries, queue length, backlog."""

    def __init__(self) -> None:
        self._ended = Counter(
            "wan_serve_tasks", description="Tasks by final state", tag_keys=("model", "status")
        )
        self._retried = Counter(
            "wan_serve_retries", description="Runs given up and queued again", tag_keys=("model",)
        )
        self._waited = Histogram(
            "wan_serve_queue_wait_s",
            description="Seconds from submit to claim",
            boundaries=_SECONDS,
            tag_keys=("model",),
        )
        self._stages = Histogram(
            "wan_serve_stage_s",
            description="Seconds of a run by stage",
            boundaries=_SECONDS,
            tag_keys=("model", "stage"),
        )
        self._queued = Gauge("wan_serve_queue_length", description="Tasks that wait", tag_keys=("model",))
        self._backlog = Gauge(
            "wan_serve_backlog_s",
            description="Seconds one replica would have to go, of models that scale by work",
            tag_keys=("model",),
        )

    def claimed(self, task: Task) -> None:
        """Record the queue wait of a task that began to run."""
        if task.started_at is not None:
            self._waited.observe(task.started_at - task.created_at, {"model": task.model})

    def ended(self, task: Task) -> None:
        """Count a task that reached a final state, and observe the seconds of its stages."""
        self._ended.inc(1, {"model": task.model, "status": task.status})
        for stage, seconds in task.timings.items():
            self._stages.observe(seconds, {"model": task.model, "stage": stage})

    def retried(self, task: Task) -> None:
        """Count a task that was queued again because its replica was lost."""
        self._retried.inc(1, {"model": task.model})

    def queued(self, lengths: Mapping[str, int]) -> None:
        """Set the number of queued tasks of each model."""
        for model, length in lengths.items():
            self._queued.set(length, {"model": model})

    def backlog(self, model: str, seconds: float) -> None:
        """Set the seconds of queued and running work of a model."""
        self._backlog.set(seconds, {"model": model})


class WebhookMetrics:
    """Metrics of webhook messages: attempts to deliver them, by what each came to."""

    def __init__(self) -> None:
        self._attempts = Counter(
            "wan_serve_webhook_attempts",
            description="Attempts to deliver webhook messages, by the message's state after them",
            tag_keys=("state",),
        )

    def attempted(self, state: DeliveryState) -> None:
        """Count an attempt by the state in which it left its message; ``pending``: it is tried again."""
        self._attempts.inc(1, {"state": state})


class StreamMetrics:
    """Metrics of event streams of a replica of the API."""

    def __init__(self) -> None:
        self._open = Gauge("wan_serve_event_streams", description="Event streams that are open")

    def open(self, count: int) -> None:
        """Set how many streams are open."""
        self._open.set(count)


class LinkMetrics:
    """Metrics of a replica's calls to the coordinator that got no answer, by method."""

    def __init__(self) -> None:
        self._unanswered = Counter(
            "wan_serve_unanswered_calls",
            description="Calls of replicas that the coordinator did not answer",
            tag_keys=("method",),
        )

    def unanswered(self, method: str) -> None:
        """Count a call that got no answer."""
        self._unanswered.inc(1, {"method": method})
