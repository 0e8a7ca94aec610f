"""JSON documents of the OpenAI surface."""

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict

from serve_app.api.http.described import described
from serve_app.queue.snapshot import QueueSnapshot
from serve_app.submission.offer import Offer
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.transitions import Status

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]

# Clients of this shape know no other word, and some poll on for ever at one that they do not know.
_STATUS: Mapping[Status, VideoStatus] = {
    Status.QUEUED: "queued",
    Status.RUNNING: "in_progress",
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}
_CANCELLED = TaskError("cancelled", "The video was cancelled.")
_FAILED = TaskError("failed", "The video could not be made.")
REMIXED = "remixed_from_video_id"
"""Name, in the record of a remix's request, of the video whose settings it took."""

_POLLS = 10
"""A client that polls at the time that it is told asks so often until the expected end."""
_POLL_BOUNDS_MS = (250, 5000)
_POLL_UNKNOWN_MS = 1000


@described
class VideoError(TypedDict):
    """Cause of a failure."""

    code: str
    """A stable word: `cancelled` for a cancelled video."""
    message: str
    """A sentence for people."""


@described
class VideoObject(TypedDict):
    """A video. Times are seconds since 1970; `revised_prompt` and what follows `error` are not OpenAI's."""

    id: str
    """The task's id."""
    object: Literal["video"]
    model: str
    """Name of the model."""
    status: VideoStatus
    """A cancelled video is `failed`."""
    progress: int
    """From 0 to 100."""
    created_at: int
    """When it was submitted."""
    completed_at: int | None
    """When it ended."""
    expires_at: int | None
    """When it is forgotten."""
    size: str
    """Width and height."""
    seconds: str
    """The length that would have to be asked for to get these frames."""
    prompt: str
    """As it was sent."""
    revised_prompt: str | None
    """What the prompt enhancer made of it."""
    remixed_from_video_id: str | None
    """The video whose settings it took."""
    error: VideoError | None
    """Why it failed."""
    inference_time_s: float | None
    """Seconds from its begin to its end."""
    queue_position: int | None
    """From 1, within the model's queue."""
    eta_seconds: float | None
    """Expected seconds to the end."""
    seed: int
    """Sent or drawn."""
    num_frames: int
    """Frames of the video."""
    fps: int
    """Frames a second."""
    notes: list[str]
    """What was left out, changed or guessed, as sentences."""


@described
class VideoPage(TypedDict):
    """One page of videos."""

    object: Literal["list"]
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    """What `after` takes for the next page."""
    has_more: bool
    """Whether others follow."""


class DeletedVideo(TypedDict):
    """A video that is no longer kept."""

    id: str
    object: Literal["video.deleted"]
    deleted: bool


class ModelObject(TypedDict):
    """A served model. `created` is always 0."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelPage(TypedDict):
    """All served models."""

    object: Literal["list"]
    data: list[ModelObject]


def video_object(task: Task, queue: QueueSnapshot, offer: Offer) -> VideoObject:
    """Return the current status of ``task``."""
    spec, place, ended = task.spec, queue.place(task), task.finished_at
    succeeded = task.status is Status.SUCCEEDED
    run_s = ended - task.started_at if succeeded and ended and task.started_at else None
    return {
        "id": task.id,
        "object": "video",
        "model": task.model,
        "status": _STATUS[task.status],
        "progress": int(100 * task.progress),
        "created_at": int(task.created_at),
        "completed_at": None if ended is None else int(ended),
        "expires_at": int(ended + offer.retention_s) if succeeded and ended else None,
        "size": f"{spec.width}x{spec.height}",
        "seconds": f"{max(spec.total_frames - 1, 1) / spec.fps:g}",
        "prompt": spec.prompt,
        "revised_prompt": task.revised_prompt or None,
        "remixed_from_video_id": task.request.get(REMIXED),
        "error": _error(task),
        "inference_time_s": None if run_s is None else round(run_s, 3),
        "queue_position": place.position,
        "eta_seconds": None if place.eta_s is None else round(place.eta_s, 1),
        "seed": spec.seed,
        "num_frames": spec.total_frames,
        "fps": spec.fps,
        "notes": list(task.notes),
    }


def video_page(tasks: Sequence[Task], queue: QueueSnapshot, offer: Offer, *, has_more: bool) -> VideoPage:
    """Return a page of ``tasks``."""
    return {
        "object": "list",
        "data": [video_object(task, queue, offer) for task in tasks],
        "first_id": tasks[0].id if tasks else None,
        "last_id": tasks[-1].id if tasks else None,
        "has_more": has_more,
    }


def model_page(offer: Offer) -> ModelPage:
    """Return the served models."""
    models: list[ModelObject] = [
        {"id": model.name, "object": "model", "created": 0, "owned_by": "wan-serve"} for model in offer.models
    ]
    return {"object": "list", "data": models}


def poll_after_ms(task: Task, queue: QueueSnapshot) -> int:
    """Return the milliseconds after which a client should ask again: a tenth of the expected rest."""
    eta_s = queue.place(task).eta_s
    if eta_s is None:
        return _POLL_UNKNOWN_MS
    least, most = _POLL_BOUNDS_MS
    return int(min(max(1000 * eta_s / _POLLS, least), most))


def _error(task: Task) -> VideoError | None:
    if task.status is Status.CANCELLED:
        error = _CANCELLED
    elif task.status is Status.FAILED:
        error = task.error or _FAILED
    else:
        return None
    return {"code": error.code, "message": error.message}
