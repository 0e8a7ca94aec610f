"""JSON documents of what is sent to clients: webhook messages, and videos to their storage."""

from collections.abc import Mapping
from typing import Literal

from typing_extensions import TypedDict

from serve_app.api.http.described import described
from serve_app.api.native.moment import moment_if_any
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.upload import Upload, shown
from serve_app.tasks.webhook import Delivery, DeliveryState

UploadStatus = Literal["waiting", "pending", "delivered", "failed", "skipped"]

_UPLOAD_STATUS: Mapping[DeliveryState, UploadStatus] = {
    DeliveryState.PENDING: "pending",
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.FAILED: "failed",
    DeliveryState.DISABLED: "failed",
}


@described
class WebhookDocument(TypedDict):
    """One webhook message about a task: how its delivery stands."""

    id: str
    """The header `webhook-id`, the same at each attempt."""
    type: str
    """Such as `task.succeeded`."""
    state: str
    """pending, delivered, failed or disabled."""
    attempts: int
    """How often it was sent."""
    last_attempt_at: str | None
    """When it was sent last."""
    last_status: int | None
    """HTTP status of the receiver's last answer."""
    last_error: str | None
    """Why the last attempt failed, as a sentence."""
    next_attempt_at: str | None
    """When it is sent again."""


@described
class UploadDocument(TypedDict):
    """The sending of a task's video to its client's storage."""

    status: UploadStatus
    """`waiting` for the video, `pending` until an attempt succeeds or the last one fails; `skipped` where the
    task has no video."""
    url: str
    """Where to, without the query of the `upload_url`."""
    attempts: int
    """How often it was sent."""
    last_attempt_at: str | None
    """When it was sent last."""
    last_status: int | None
    """HTTP status of the storage's last answer."""
    error: str | None
    """Why the last attempt failed, as a sentence."""
    next_attempt_at: str | None
    """When it is sent again."""


def webhook_document(delivery: Delivery) -> WebhookDocument:
    """Return how the delivery of a message stands."""
    return {
        "id": delivery.id,
        "type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "last_attempt_at": moment_if_any(delivery.last_at),
        "last_status": delivery.last_code,
        "last_error": delivery.last_fault,
        "next_attempt_at": moment_if_any(delivery.next_at),
    }


def upload_document(task: Task, upload: Upload | None) -> UploadDocument | None:
    """Return how the sending of a task's video stands; None where nobody asked for it."""
    if task.upload_url is None:
        return None
    return {
        "status": _upload_status(task, upload),
        "url": shown(task.upload_url),
        "attempts": upload.attempts if upload else 0,
        "last_attempt_at": moment_if_any(upload.last_at if upload else None),
        "last_status": upload.last_code if upload else None,
        "error": upload.last_fault if upload else None,
        "next_attempt_at": moment_if_any(upload.next_at if upload else None),
    }


def _upload_status(task: Task, upload: Upload | None) -> UploadStatus:
    if upload is not None:
        return _UPLOAD_STATUS[upload.state]
    if task.status is Status.SUCCEEDED:  # one that is about to be begun
        return "pending"
    return "skipped" if task.is_final else "waiting"
