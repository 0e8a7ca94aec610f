"""JSON documents of the native surface about tasks and the queue."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from models.phase import Phase
from serve_app.api.http.described import described
from serve_app.api.native.delivery_document import (
    UploadDocument,
    WebhookDocument,
    upload_document,
    webhook_document,
)
from serve_app.api.native.moment import moment, moment_if_any
from serve_app.api.native.task_inputs import input_keys
from serve_app.queue.snapshot import QueueSnapshot
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Delivery

NativeStatus = Literal["submitted", "running", "succeed", "failed", "cancelled"]

NATIVE_STATUS: Mapping[Status, NativeStatus] = {
    Status.QUEUED: "submitted",
    Status.RUNNING: "running",
    Status.SUCCEEDED: "succeed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}

LIGHTX2V_STATUS: Mapping[Status, str] = {
    Status.QUEUED: "pending",
    Status.RUNNING: "processing",
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}

_NO_QUEUE = QueueSnapshot({}, (), (), {}, {}, (), 0.0)
_UNTOLD = frozenset({"webhooks", "prompt", "inputs"})
"""Fields of a status that a webhook message leaves out."""


@described
class ErrorOfTask(TypedDict):
    """Cause of a task's failure."""

    code: str
    """A stable word for programs."""
    message: str
    """A sentence for people."""


@described
class SubmitDocument(TypedDict):
    """The answer to a submit."""

    task_id: str
    """The id that everything else asks for."""
    status: NativeStatus
    """`submitted`, or the state of the task that the `Idempotency-Key` has made before."""
    message: str
    """What was decided differently from what was asked."""
    task_status: str
    """The same in LightX2V's words."""
    save_result_path: str
    """Where the video will lie."""


@described
class TaskDocument(TypedDict):
    """Current status of a task. Times are RFC 3339 in UTC."""

    task_id: str
    """The task's id."""
    owner: str
    """Name of the API key that it was submitted with; empty without keys."""
    status: NativeStatus
    """`submitted` waits; the last three are final."""
    progress: float
    """From 0.0 to 1.0; never falls, and is 1.0 only at `succeed`."""
    message: str
    """The state as a sentence, with the notes."""
    phase: str | None
    """What a running task is at: `preparing`, `encoding text`, `step 3 of 40`, `decoding` …"""
    model: str
    """Name of the model."""
    prompt: str
    """As it was sent."""
    inputs: list[str]
    """Fields of the pictures and videos that it is made from, which `/input` sends."""
    created_at: str
    """When it was submitted."""
    started_at: str | None
    """When its current attempt began."""
    finished_at: str | None
    """When it ended."""
    step: int
    """Denoise steps that are done."""
    total_steps: int
    """Denoise steps of the whole video."""
    revised_prompt: str | None
    """What the prompt enhancer made of the prompt, which the model gets in its place."""
    fragment_prompts: list[str]
    """The prompt of each fragment, of a request that has them."""
    queue_position: int | None
    """From 1, within the model's queue; null where it does not wait, or is paused."""
    eta_seconds: float | None
    """Expected seconds to the end; null until a video has been made."""
    attempt: int
    """How often it was begun: above 1 when a replica was lost."""
    replica: str | None
    """The replica that runs it, or ran it last."""
    seed: int
    """Sent or drawn; the same one makes the same video."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    num_frames: int
    """Frames of the video."""
    fps: int
    """Frames a second."""
    format: str
    """Of the file."""
    priority: int
    """Higher goes first."""
    expires_at: str | None
    """When it fails if it has not begun by then."""
    save_result_path: str
    """Where the video will lie."""
    video_path: str | None
    """What `/v1/files/download/` takes; null before the video is there."""
    result_url: str | None
    """Path of the video; null before it is there."""
    last_frame_url: str | None
    """Path of the last frame, if it was asked for."""
    timings: Mapping[str, float]
    """Seconds of the run by stage."""
    notes: list[str]
    """What was left out, changed or guessed, as sentences."""
    error: ErrorOfTask | None
    """Why it failed."""
    webhooks: list[WebhookDocument]
    """The messages about it; empty without a `callback_url`."""
    upload: UploadDocument | None
    """How the sending of the video stands; null without an `upload_url`."""


@described
class SettingsDocument(TypedDict):
    """The request that makes a task's video again, without its pictures and videos."""

    settings: Mapping[str, Any]
    """Fields of a submit, the seed among them."""
    inputs: list[str]
    """Fields of the pictures and videos that it is made from, which `/input` sends."""


@described
class TaskListDocument(TypedDict):
    """One page of tasks, newest first."""

    tasks: list[TaskDocument]
    has_more: bool
    """Whether older ones follow."""


@described
class StopDocument(TypedDict):
    """Outcome of a cancel."""

    stop_status: Literal["success", "do_nothing", "error"]
    """`do_nothing` where there was nothing to cancel."""
    reason: str
    """The outcome as a sentence."""


@described
class QueueStatusDocument(TypedDict):
    """Occupancy of the queue."""

    is_processing: bool
    """Whether any task runs."""
    current_task: str | None
    """The longest-running task that the caller sees."""
    pending_count: int
    """Tasks that wait."""
    active_count: int
    """Tasks that run."""
    queue_size: int
    """How many may wait."""
    queue_available: int
    """How many more may wait."""
    paused: bool
    """Whether the caller's own queue is paused."""
    paused_models: list[str]
    """Models whose queue is paused."""


def submit_document(task: Task, queue: QueueSnapshot, *, is_new: bool) -> SubmitDocument:
    """Return the answer to the submit that made ``task``, or found it already made."""
    message = "Task created successfully" if is_new else "This Idempotency-Key has made the task before"
    message += _awaited(task, queue)
    return {
        "task_id": task.id,
        "status": NATIVE_STATUS[task.status],
        "message": _with_notes(message, task),
        "task_status": LIGHTX2V_STATUS[task.status],
        "save_result_path": task.save_path,
    }


def task_document(
    task: Task,
    queue: QueueSnapshot,
    webhooks: Sequence[Delivery],
    upload: Upload | None,
    *,
    root_path: str,
) -> TaskDocument:
    """Return the current status of ``task``; ``root_path`` is where the API is mounted."""
    place = queue.place(task)
    succeeded = task.status is Status.SUCCEEDED
    has_last_frame = succeeded and task.spec.output.return_last_frame
    return {
        "task_id": task.id,
        "owner": task.owner,
        "status": NATIVE_STATUS[task.status],
        "progress": math.floor(task.progress * 1e4) / 1e4,  # rounded up it would say 1.0 before the end
        "message": _with_notes(_message(task, place.position) + _awaited(task, queue), task),
        "phase": _phase(task),
        "model": task.model,
        "prompt": task.spec.prompt,
        "inputs": list(input_keys(task.spec)),
        "created_at": moment(task.created_at),
        "started_at": moment_if_any(task.started_at),
        "finished_at": moment_if_any(task.finished_at),
        "step": task.step,
        "total_steps": task.spec.total_steps,
        "revised_prompt": task.revised_prompt or None,
        "fragment_prompts": list(task.spec.fragment_prompts),
        "queue_position": place.position,
        "eta_seconds": round(place.eta_s, 1) if place.eta_s is not None else None,
        "attempt": task.attempt,
        "replica": task.runner,
        "seed": task.spec.seed,
        "width": task.spec.width,
        "height": task.spec.height,
        "num_frames": task.total_frames,
        "fps": task.spec.fps,
        "format": task.spec.output.format,
        "priority": task.priority,
        "expires_at": moment_if_any(task.expires_at),
        "save_result_path": task.save_path,
        "video_path": task.save_path if succeeded else None,
        "result_url": f"{root_path}/v1/tasks/{task.id}/result" if succeeded else None,
        "last_frame_url": f"{root_path}/v1/tasks/{task.id}/last_frame" if has_last_frame else None,
        "timings": task.timings,
        "notes": list(task.notes),
        "error": {"code": task.error.code, "message": task.error.message} if task.error else None,
        "webhooks": [webhook_document(delivery) for delivery in webhooks],
        "upload": upload_document(task, upload),
    }


def message_document(task: Task, upload: Upload | None, *, root_path: str) -> Mapping[str, Any]:
    """Return the status of a task that runs or has ended, as a webhook message tells it.

    It is without what is not of the task alone, the queue and the messages themselves, and without the prompt
    and inputs that its receiver sent: receivers take at most about 20 kB.
    """
    document = task_document(task, _NO_QUEUE, (), upload, root_path=root_path)
    return {name: value for name, value in document.items() if name not in _UNTOLD}


def queue_status_document(queue: QueueSnapshot, caller: Caller, max_queued: int) -> QueueStatusDocument:
    """Return the occupancy of the queue as ``caller`` sees it."""
    running = queue.running_of(caller)
    return {
        "is_processing": bool(queue.running),
        "current_task": running[0].id if running else None,
        "pending_count": queue.pending,
        "active_count": len(queue.running),
        "queue_size": max_queued,
        "queue_available": max(max_queued - queue.pending, 0),
        "paused": caller.name in queue.pauses.owners,
        "paused_models": sorted(queue.pauses.models),
    }


def why_no_result(task: Task) -> str:
    """Return why a task without a video has none, as a sentence."""
    if task.status is Status.FAILED:
        return "The task failed and has no result; its status says why."
    if task.status is Status.CANCELLED:
        return "The task was cancelled and has no result."
    return f"The task has not finished: it is {NATIVE_STATUS[task.status]}. Ask again once it says succeed."


def _with_notes(message: str, task: Task) -> str:
    """Append the task's notes: every message says what was decided differently from what was asked."""
    return " ".join([f"{message}.", *task.notes]) if task.notes else message


def _awaited(task: Task, queue: QueueSnapshot) -> str:
    if task.status is not Status.QUEUED:
        return ""
    if queue.is_disk_low:
        return ". The service is low on disk space and begins no task"
    if task.model in queue.removed:
        ends_at = moment(queue.removed[task.model])
        return (
            f". The model {task.model} is not served any more: unless that or one that replaces it is again, "
            f"the task fails on {ends_at}"
        )
    awaited = queue.line(task.model).awaits_replica
    return f". The model {task.model} {awaited}" if awaited else ""


def _message(task: Task, position: int | None) -> str:
    if task.status is Status.QUEUED:
        return (
            "Waiting: the queue is paused" if position is None else f"Waiting in the queue, number {position}"
        )
    if task.status is Status.RUNNING:
        return f"Processing, {_phase(task)}"
    if task.status is Status.FAILED and task.error is not None:
        return task.error.message
    return {Status.SUCCEEDED: "Task completed successfully", Status.CANCELLED: "Task cancelled"}.get(
        task.status, "Task failed"
    )


def _phase(task: Task) -> str | None:
    """Return what a running task is at, None for another task."""
    if task.status is not Status.RUNNING:
        return None
    total = task.spec.total_steps
    if task.phase == Phase.DENOISING:
        return f"step {min(task.step + 1, total)} of {total}"
    return task.phase or Phase.PREPARING
