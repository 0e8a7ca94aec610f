"""The records of a task. All are frozen: a move makes a new row in the store, and a new record from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.video_spec import VideoSpec
from serve_app.tasks.replica import Health as Health
from serve_app.tasks.replica import Replica as Replica
from serve_app.tasks.replica import Scale as Scale
from serve_app.tasks.transitions import FINAL, Status

# ``Health``, ``Replica`` and ``Scale`` stay importable from here for one version: during a rolling redeploy
# a replica of the version before sends its heartbeats pickled under these names.


@dataclass(frozen=True, slots=True)
class TaskSpec(VideoSpec):
    """The video of a task: its spec, and its pictures by the keys they are stored under."""

    image_key: str | None = None
    """The stored first frame, if the video starts from an image."""
    last_image_key: str | None = None
    """The stored last frame, if it is to end with one."""
    video_frames: int | None = None
    """Frames of all fragments together; None for a video of one fragment."""

    @property
    def total_frames(self) -> int:
        """Frames of the finished video."""
        return self.num_frames if self.video_frames is None else self.video_frames


@dataclass(frozen=True, slots=True)
class NewTask:
    """A checked submit, ready to be stored."""

    uid: str
    """Ours, never reused, names the task's files; ``id`` is the client's and may be replaced."""
    id: str
    model: str
    spec: TaskSpec
    work: float
    """Steps × tokens × forwards a step: what an estimate of its run time is proportional to."""
    save_path: str
    """The finished video's public path: relative to the output root, or absolute."""
    priority: int = 0
    owner: str = ""
    """Name of the API key it was submitted with; empty for a service without keys."""
    tokens: int = 0
    """DiT tokens of one forward: videos of the same number take the same time for each unit of work."""
    notes: tuple[str, ...] = ()
    """Sentences for the client about what was decided differently from what was asked."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """The request as the client sent it, images left out."""
    idempotency_key: str | None = None
    digest: str = ""
    """Hash of the request body: tells a repeated submit from another one under the same key."""


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the store holds it. Times are seconds since 1970, UTC."""

    uid: str
    id: str
    seq: int
    """Order of arrival."""
    status: Status
    model: str
    spec: TaskSpec
    work: float
    priority: int
    owner: str
    notes: tuple[str, ...]
    request: Mapping[str, Any]
    save_path: str
    attempt: int
    """Counts up at each claim and fences every write of a runner; 0 before the first."""
    attempts_left: int
    runner: str | None
    """The replica that runs it, or ran it last."""
    step: int
    progress: float
    """0.0 … 1.0; never falls, also not when a new attempt starts over; 1.0 only when it succeeded."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    lease_expires_at: float | None
    artifact: str | None
    """Key of the committed video."""
    error: TaskError | None
    timings: Mapping[str, float]
    """Seconds by stage of the run that succeeded."""
    tokens: int = 0
    """DiT tokens of one forward; 0 for a task of a version that did not count them."""

    @property
    def is_final(self) -> bool:
        """True once the task can never change again."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """The little of a queued task that its place in the queue depends on."""

    id: str
    model: str
    owner: str
    priority: int
    seq: int
    work: float
    tokens: int
