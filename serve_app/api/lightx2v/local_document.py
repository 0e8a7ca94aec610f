"""JSON documents of LightX2V's local API."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status


class StartedDocument(TypedDict):
    """Response to an accepted task: a replica is free and the video is being generated."""

    task_id: str
    task_status: Literal["processing"]
    save_video_path: str


class ErrorDocument(TypedDict):
    """Response to a rejected task, with the reason as a sentence."""

    error: str


class LocalStatusDocument(TypedDict):
    """Whether a task would be begun; `task_id` is the running task of a busy service."""

    service_status: Literal["idle", "busy"]
    task_id: NotRequired[str]


class EndedDocument(TypedDict):
    """Outcome of a task. `message` is the request; `error` replaces `completion_time` on failure."""

    success: bool
    message: Mapping[str, Any]
    start_time: str
    completion_time: NotRequired[str]
    error: NotRequired[str]


class UnendedTaskDocument(TypedDict):
    """Status of a task that has not ended, or does not exist."""

    task_status: Literal["processing", "not_found"]


class CompletedTaskDocument(EndedDocument):
    """Status of a task in a final state."""

    task_status: Literal["completed"]


class LocalStopDocument(TypedDict):
    """Outcome of a stop, with a sentence."""

    stop_status: Literal["success", "do_nothing"]
    reason: str


def ended_document(task: Task) -> EndedDocument:
    """Return the outcome of a task in a final state."""
    ended: EndedDocument = {
        "success": task.status is Status.SUCCEEDED,
        "message": dict(task.request),
        "start_time": _time(task.started_at or task.created_at),
    }
    if task.status is Status.SUCCEEDED:
        ended["completion_time"] = _time(task.finished_at or task.created_at)
    elif task.status is Status.CANCELLED:
        ended["error"] = "Task stopped by user"
    else:
        ended["error"] = task.error.message if task.error else "Task failed"
    return ended


def task_status_document(task: Task) -> UnendedTaskDocument | CompletedTaskDocument:
    """Return a task's status, with its outcome if it has ended."""
    if not task.is_final:
        return {"task_status": "processing"}
    return {"task_status": "completed", **ended_document(task)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
