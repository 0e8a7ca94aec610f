"""The outcome of a submit."""

from dataclasses import dataclass

from serve_app.queue.snapshot import QueueSnapshot
from serve_app.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Submitted:
    """The stored task, and the queue as it stood at the submit."""

    task: Task
    queue: QueueSnapshot
    is_new: bool
    """False when an earlier order with the same idempotency key made the task."""
