"""Admission control: the limits under which a task enters the queue."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits for one submitted task, and the seconds after which a refused client may retry."""

    max_queued: int
    """Limit of all owners' queued tasks."""
    max_attempts: int
    retry_after_s: int
    """Retry-After, in seconds, when ``max_queued`` is reached."""
    max_queued_own: int | None = None
    """Limit of the owner's queued tasks; ``None``: no limit."""
    own_retry_after_s: int = 1
    """Retry-After, in seconds, when ``max_queued_own`` is reached."""
    replace: bool = False
    """Delete the owner's task with the same id; a run of that task is abandoned at its next report."""
