"""The coordinator's spans of a task: queue, moves that end a run, its whole life, and what is sent of it."""

import time

from serve_app.tasks.task import Task
from serve_app.tracing.tracer import UNTRACED, Tracer, facts_of, traceparent_of


class TaskSpans:
    """Tells the tracer of tasks that were submitted in a trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def claimed(self, task: Task) -> None:
        """Tell of the wait until the first run; that of a later one begins with the ``requeue`` before it."""
        if (parent := traceparent_of(task)) is not None and task.attempt == 1:
            began_run = task.started_at or time.time()
            self._tracer.tell("queue", parent, task.created_at, began_run, facts_of(task))

    def requeued(self, task: Task) -> None:
        """Tell that a run was lost and its task queued again."""
        if (parent := traceparent_of(task)) is not None:
            now = time.time()
            self._tracer.tell("requeue", parent, now, now, facts_of(task), error="worker_lost")

    def sent(
        self, what: str, task: Task, began: float, number: int, code: int | None, *, error: str | None
    ) -> None:
        """Tell of an attempt, which ends now, at a message or an upload; ``code``: the status it came to."""
        if (parent := traceparent_of(task)) is not None:
            answer = {} if code is None else {"http.response.status_code": code}
            facts = {**facts_of(task), "wan.sending": number, **answer}
            self._tracer.tell(what, parent, began, time.time(), facts, error=error)

    def ended(self, task: Task) -> None:
        """Tell of the whole time of a task that has ended: ``succeeded``, ``failed`` or ``cancelled``."""
        if (parent := traceparent_of(task)) is not None:
            ended = task.finished_at or time.time()
            error = None if task.error is None else task.error.code
            self._tracer.tell(
                f"task {task.status}", parent, task.created_at, ended, facts_of(task), error=error
            )


NO_SPANS = TaskSpans(UNTRACED)
"""Those of a service without ``tracing``."""
