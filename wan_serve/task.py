"""A task as the service tells of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from wan_serve.errors import TaskCancelled, TaskFailed

Status: TypeAlias = Literal["submitted", "running", "succeed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task's state at one moment. Sizes are in pixels, times in UTC."""

    id: str
    status: Status
    progress: float
    """From 0.0 to 1.0; never falls, and is 1.0 only at ``succeed``."""
    message: str
    phase: str | None
    """What a running task is at, such as ``step 3 of 40``."""
    model: str
    seed: int
    width: int
    height: int
    num_frames: int
    fps: int
    format: str
    step: int
    total_steps: int
    queue_position: int | None
    """From 1, within the model's queue."""
    eta_seconds: float | None
    """Expected seconds to the end; None until the service has made a video."""
    attempt: int
    priority: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result_url: str | None
    """Path of the video on the service; None before it is there."""
    notes: tuple[str, ...] = ()
    error: TaskError | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All that the service said, as ``TaskDocument`` in docs/api.md."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Task":
        """Read a status document. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        error = document.get("error")
        return cls(
            id=document["task_id"],
            status=document["status"],
            progress=document["progress"],
            message=document["message"],
            phase=document["phase"],
            model=document["model"],
            seed=document["seed"],
            width=document["width"],
            height=document["height"],
            num_frames=document["num_frames"],
            fps=document["fps"],
            format=document["format"],
            step=document["step"],
            total_steps=document["total_steps"],
            queue_position=document["queue_position"],
            eta_seconds=document["eta_seconds"],
            attempt=document["attempt"],
            priority=document["priority"],
            created_at=datetime.fromisoformat(document["created_at"]),
            started_at=_moment(document["started_at"]),
            finished_at=_moment(document["finished_at"]),
            result_url=document["result_url"],
            notes=tuple(document["notes"]),
            error=TaskError(error["code"], error["message"]) if error else None,
            document=document,
        )

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return self.status in ("succeed", "failed", "cancelled")

    @property
    def has_video(self) -> bool:
        """Whether there is a video to download."""
        return self.status == "succeed"

    def require_video(self) -> "Task":
        """Return the task. Raises ``TaskFailed`` or ``TaskCancelled`` if it ended without a video."""
        if self.status == "failed":
            raise TaskFailed(self)
        if self.status == "cancelled":
            raise TaskCancelled(self)
        return self


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks, newest first, and whether there are older ones."""

    tasks: tuple[Task, ...]
    has_more: bool


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
