"""Metrics for an operator's dashboards and alerts, over Ray's own metrics export.

A label takes as many values as the configuration lists models or keys, or is one of a few words of the
program. Counters begin at nothing for each label that is known at the start: of a series that begins with a
count, Prometheus would not see that count as a rise.
"""

import sys
from collections.abc import Mapping, Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from serve_app.tasks.replica import Health, Replica
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import FINAL, Status
from serve_app.tasks.webhook import DeliveryState

_SECONDS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600]
_STEP_SECONDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300]
_STORE_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
_RATIOS = [0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 4]
_NOTHING = sys.float_info.min
"""What a counter begins with: Ray refuses to count 0."""


class TaskMetrics:
    """Metrics of tasks by model: their ends, runs, waits, stages, steps, and how true their ETAs were."""

    def __init__(self, models: Sequence[str], keys: Sequence[str] = ()) -> None:
        """``keys``: names of the API keys that tasks are told apart by; none: they are not."""
        self._keys = frozenset(keys)
        self._ended = Counter(
            "wan_serve_tasks", description="Tasks by final state", tag_keys=("model", "status", "key")
        )
        self._begun = Counter(
            "wan_serve_runs", description="Runs begun: the first and every later attempt", tag_keys=("model",)
        )
        self._retried = Counter(
            "wan_serve_retries", description="Runs given up and queued again", tag_keys=("model",)
        )
        self._waited = Histogram(
            "wan_serve_queue_wait_s",
            description="Seconds from submit to claim",
            boundaries=_SECONDS,
            tag_keys=("model", "key"),
        )
        self._stages = Histogram(
            "wan_serve_stage_s",
            description="Seconds of a run by stage",
            boundaries=_SECONDS,
            tag_keys=("model", "stage"),
        )
        self._steps = Histogram(
            "wan_serve_step_s",
            description="Seconds of a denoise step, the mean of each run",
            boundaries=_STEP_SECONDS,
            tag_keys=("model",),
        )
        self._etas = Histogram(
            "wan_serve_eta_ratio",
            description="Seconds from submit to success, as a multiple of those told at the submit",
            boundaries=_RATIOS,
            tag_keys=("model",),
        )
        for model in models:
            self._begun.inc(_NOTHING, {"model": model})
            self._retried.inc(_NOTHING, {"model": model})
            for status in sorted(FINAL):
                for key in keys or ("",):
                    self._ended.inc(_NOTHING, {"model": model, "status": status, "key": key})

    def claimed(self, task: Task) -> None:
        """Count a run that begins, and observe how long its task has waited."""
        self._begun.inc(1, {"model": task.model})
        if task.started_at is not None:
            tags = {"model": task.model, "key": self._key(task)}
            self._waited.observe(task.started_at - task.created_at, tags)

    def ended(self, task: Task) -> None:
        """Count a task that reached a final state, and observe the seconds that it took."""
        self._ended.inc(1, {"model": task.model, "status": task.status, "key": self._key(task)})
        for stage, seconds in task.timings.items():
            self._stages.observe(seconds, {"model": task.model, "stage": stage})
        if task.status is not Status.SUCCEEDED:
            return
        if task.step and "denoise_s" in task.timings:
            self._steps.observe(task.timings["denoise_s"] / task.step, {"model": task.model})
        if task.told_s and task.finished_at is not None:
            self._etas.observe((task.finished_at - task.created_at) / task.told_s, {"model": task.model})

    def retried(self, task: Task) -> None:
        """Count a task that was queued again because its replica was lost."""
        self._retried.inc(1, {"model": task.model})

    def _key(self, task: Task) -> str:
        """Return the key's name; empty, as good as no label, where keys are not told apart."""
        return task.owner if task.owner in self._keys else ""


class ServiceMetrics:
    """Gauges of the whole service, set again and again from the store by the coordinator that leads."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = models
        self._queued = Gauge("wan_serve_queue_length", description="Tasks that wait", tag_keys=("model",))
        self._ready = Gauge(
            "wan_serve_queue_ready",
            description="Tasks that wait for nothing but a replica: no pause and no key's limit holds them",
            tag_keys=("model",),
        )
        self._oldest = Gauge(
            "wan_serve_oldest_wait_s",
            description="Seconds since the submit of the oldest task that waits for nothing but a replica",
            tag_keys=("model",),
        )
        self._running = Gauge("wan_serve_running", description="Tasks that run", tag_keys=("model",))
        self._backlog = Gauge(
            "wan_serve_backlog_s",
            description="Seconds one replica would have to go, of models that scale by work",
            tag_keys=("model",),
        )
        self._replicas = Gauge(
            "wan_serve_replicas", description="Replicas by health", tag_keys=("model", "health")
        )
        self._devices = Gauge(
            "wan_serve_devices",
            description="Devices of replicas by the replica's health",
            tag_keys=("model", "health"),
        )
        self._epoch = Gauge("wan_serve_epoch", description="Number of coordinators that have led so far")
        self._messages = Gauge("wan_serve_webhooks_pending", description="Webhook messages to be sent")
        self._videos = Gauge(
            "wan_serve_uploads_pending", description="Videos to be sent to their client's storage"
        )
        self._free = Gauge(
            "wan_serve_free_bytes", description="Bytes left on the disk of a folder", tag_keys=("folder",)
        )

    def queue(
        self,
        queued: Mapping[str, int],
        ready: Mapping[str, int],
        oldest_s: Mapping[str, float],
        running: Mapping[str, int],
    ) -> None:
        """Set the figures of the queue by model; a model that is not in one has none there."""
        for model in self._models:
            tags = {"model": model}
            self._queued.set(queued.get(model, 0), tags)
            self._ready.set(ready.get(model, 0), tags)
            self._oldest.set(oldest_s.get(model, 0.0), tags)
            self._running.set(running.get(model, 0), tags)

    def backlog(self, model: str, seconds: float) -> None:
        """Set the seconds of queued and running work of a model."""
        self._backlog.set(seconds, {"model": model})

    def fleet(self, replicas: Sequence[Replica]) -> None:
        """Set the numbers of replicas and of their devices, by model and health."""
        for model in self._models:
            for health in Health:
                ranks = [each.ranks for each in replicas if (each.model, each.health) == (model, health)]
                self._replicas.set(len(ranks), {"model": model, "health": health})
                self._devices.set(sum(ranks), {"model": model, "health": health})

    def leads(self, epoch: int) -> None:
        """Set the epoch of the coordinator that leads."""
        self._epoch.set(epoch)

    def to_send(self, *, messages: int, videos: int) -> None:
        """Set the numbers of webhook messages and of uploads of which an attempt is to come."""
        self._messages.set(messages)
        self._videos.set(videos)

    def disk(self, folder: str, free_bytes: int) -> None:
        """Set what is left on the disk of the folder that a setting of this name gives."""
        self._free.set(free_bytes, {"folder": folder})


class StoreMetrics:
    """Metrics of the task store, as a process of the service sees it."""

    def __init__(self, part: str) -> None:
        """``part``: the deployment, ``api`` or ``coordinator``."""
        self._part = part
        self._took = Histogram(
            "wan_serve_store_s",
            description="Seconds of a read or of a transaction that writes, with the wait for its turn",
            boundaries=_STORE_SECONDS,
            tag_keys=("part", "kind"),
        )

    def took(self, kind: str, seconds: float) -> None:
        """Observe a ``read`` or a ``write``."""
        self._took.observe(seconds, {"part": self._part, "kind": kind})


class CacheMetrics:
    """Metrics of the caches of a replica's engine."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._counted: dict[str, int] = {}
        self._evictions = Counter(
            "wan_serve_evictions",
            description="Entries that a cache of an engine dropped for want of room",
            tag_keys=("model", "cache"),
        )

    def evicted(self, so_far: Mapping[str, int]) -> None:
        """Count what the caches have dropped since the last call; ``so_far``: all in all, by cache."""
        for cache, dropped in so_far.items():
            more = dropped - self._counted.get(cache, 0)
            if more or cache not in self._counted:
                self._evictions.inc(more or _NOTHING, {"model": self._model, "cache": cache})
            self._counted[cache] = dropped


class WebhookMetrics:
    """Metrics of webhook messages: attempts to deliver them, by what each came to."""

    def __init__(self) -> None:
        self._attempts = Counter(
            "wan_serve_webhook_attempts",
            description="Attempts to deliver webhook messages, by the message's state after them",
            tag_keys=("state",),
        )
        for state in DeliveryState:
            self._attempts.inc(_NOTHING, {"state": state})

    def attempted(self, state: DeliveryState) -> None:
        """Count an attempt by the state in which it left its message; ``pending``: it is tried again."""
        self._attempts.inc(1, {"state": state})


class UploadMetrics:
    """Metrics of uploads: attempts to send a video to its client's storage, by what each came to."""

    def __init__(self) -> None:
        self._attempts = Counter(
            "wan_serve_upload_attempts",
            description="Attempts to send a video to its client's storage, by the upload's state after them",
            tag_keys=("state",),
        )
        for state in (DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.FAILED):
            self._attempts.inc(_NOTHING, {"state": state})

    def attempted(self, state: DeliveryState) -> None:
        """Count an attempt by the state in which it left its upload; ``pending``: it is tried again."""
        self._attempts.inc(1, {"state": state})


class StreamMetrics:
    """Metrics of event streams of a replica of the API."""

    def __init__(self) -> None:
        self._open = Gauge("wan_serve_event_streams", description="Event streams that are open")
        self._count = 0
        self.refresh()

    def open(self, count: int) -> None:
        """Set how many streams are open."""
        self._count = count
        self.refresh()

    def refresh(self) -> None:
        """Set the same figure again: Ray exports a gauge only for a while after it was set."""
        self._open.set(self._count)


class LinkMetrics:
    """Metrics of a replica's calls to the coordinator that got no answer, by method."""

    def __init__(self, methods: Sequence[str]) -> None:
        self._unanswered = Counter(
            "wan_serve_unanswered_calls",
            description="Calls of replicas that the coordinator did not answer",
            tag_keys=("method",),
        )
        for method in methods:
            self._unanswered.inc(_NOTHING, {"method": method})

    def unanswered(self, method: str) -> None:
        """Count a call that got no answer."""
        self._unanswered.inc(1, {"method": method})
