"""JSON documents of LightX2V's task API."""

from datetime import UTC, datetime
from typing import NotRequired

from typing_extensions import TypedDict

from serve_app.api.native.task_document import LIGHTX2V_STATUS
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status


class LightX2VSubmitted(TypedDict):
    """Response to an accepted task; `message` says what was decided differently from what was asked."""

    task_id: str
    task_status: str
    save_result_path: str
    message: NotRequired[str]


class LightX2VTask(TypedDict):
    """Status of a task. Times are UTC, without a zone, as LightX2V writes its own."""

    task_id: str
    status: str
    start_time: str
    end_time: str | None
    error: str | None
    error_type: str | None
    save_result_path: str


def submitted_document(task: Task) -> LightX2VSubmitted:
    """Return the answer to the submit of ``task``."""
    document: LightX2VSubmitted = {
        "task_id": task.id,
        "task_status": LIGHTX2V_STATUS[task.status],
        "save_result_path": task.save_path,
    }
    if task.notes:
        document["message"] = " ".join(task.notes)
    return document


def lightx2v_task(task: Task) -> LightX2VTask:
    """Return the current status of ``task``."""
    error = task.error.message if task.error is not None else None
    return {
        "task_id": task.id,
        "status": LIGHTX2V_STATUS[task.status],
        "start_time": _time(task.started_at or task.created_at),
        "end_time": None if task.finished_at is None else _time(task.finished_at),
        "error": "Task cancelled by user" if task.status is Status.CANCELLED else error,
        "error_type": task.error.code if task.error is not None else None,
        "save_result_path": task.save_path,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
