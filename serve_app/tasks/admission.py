"""The terms on which a task is let into the queue."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admission:
    """On which terms a task is let in. The seconds are what a client is told whose task is not."""

    max_queued: int
    max_attempts: int
    retry_after_s: int
    max_queued_own: int | None = None
    """Limit of its owner's queued tasks; ``None``: no limit."""
    own_retry_after_s: int = 1
    replace: bool = False
    """Forget the owner's task that has the same id; its run is told to stop at its next report."""
