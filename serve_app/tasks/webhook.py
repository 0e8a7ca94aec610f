"""Records of webhooks: what a client is told about its task, and how far the delivery is."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from serve_app.tasks.transitions import Status


class EventType(StrEnum):
    """The type of a webhook message: the change of a task that it tells of."""

    STARTED = "task.started"
    """A replica has begun an attempt at the task."""
    SUCCEEDED = "task.succeeded"
    FAILED = "task.failed"
    CANCELLED = "task.cancelled"


EVENT_OF: Mapping[Status, EventType] = {
    Status.RUNNING: EventType.STARTED,
    Status.SUCCEEDED: EventType.SUCCEEDED,
    Status.FAILED: EventType.FAILED,
    Status.CANCELLED: EventType.CANCELLED,
}
"""The message of a task that comes into each state; none of one that is queued."""

FINAL_EVENTS = (EventType.SUCCEEDED, EventType.FAILED, EventType.CANCELLED)
"""What a client is told that does not choose."""


@dataclass(frozen=True, slots=True)
class Callback:
    """Where a client wants to be told of its task, and of which events."""

    url: str
    events: tuple[EventType, ...] = FINAL_EVENTS


class DeliveryState(StrEnum):
    """How far the delivery of a message is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Every attempt failed."""
    DISABLED = "disabled"
    """The receiver has answered 410: nothing is sent there until a client asks for it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one receiver. Times are in seconds since 1970, UTC."""

    id: str
    """The header ``webhook-id``, the same at each attempt."""
    task_uid: str
    owner: str
    url: str
    endpoint: str
    """Hash of owner and URL: whom a refusal by the receiver concerns."""
    type: EventType
    occurred_at: float
    state: DeliveryState
    attempts: int
    next_at: float | None
    """Time of the next attempt; None when there is none to come."""
    last_at: float | None = None
    last_code: int | None = None
    """HTTP status of the last attempt's answer; None without an answer."""
    last_fault: str | None = None
    """Why the last attempt failed, as a sentence; None after an answer of 2xx."""
