"""Records of a task. All are frozen: a move changes the row, and a new record is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.video_spec import VideoSpec
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.replica import Health as Health
from serve_app.tasks.replica import Replica as Replica
from serve_app.tasks.replica import Scale as Scale
from serve_app.tasks.transitions import FINAL, Status
from serve_app.tasks.video_output import PLAIN, VideoOutput
from serve_app.tasks.webhook import Callback

# ``Health``, ``Replica`` and ``Scale`` stay importable from this module for one version: during a rolling
# redeploy, replicas of the previous version send heartbeats pickled under these names.

MAX_PROMPT_CHARS = 4096
"""Longest prompt, of a client or of the prompt enhancer."""

MAX_FRAGMENT_PROMPTS_CHARS = 4 * MAX_PROMPT_CHARS
"""Most characters of a video's fragment prompts together: they stand in its row, its status and its file."""


@dataclass(frozen=True, slots=True)
class TaskSpec(VideoSpec):
    """The video spec of a task, with its images as keys of stored inputs."""

    image_key: str | None = None
    """Key of the first frame; None for a video that starts without an image."""
    last_image_key: str | None = None
    """Key of the last frame; None for a video without a given end."""
    video_frames: int | None = None
    """Frames of all fragments together; None for a video of one fragment, and no kept ones."""
    output: VideoOutput = PLAIN
    """The form of the file."""
    fragment_prompts: tuple[str, ...] = ()
    """A prompt for each fragment, in place of ``prompt``; empty: that one for all."""
    reference_keys: tuple[str, ...] = ()
    """Keys of the reference pictures."""
    continues: Continuation | None = None
    """The earlier video that this one goes on from; its fragments are none of ``num_fragments``."""
    video_key: str | None = None
    """Key of the video to change, in this spec's size and frame rate, with at least its frames."""
    mask_key: str | None = None
    """Key of the mask of that video, of the same form in gray."""
    control_scale: float = 1.0
    """Factor on what the video, the pictures and the references add."""

    @property
    def has_inputs(self) -> bool:
        """Whether the video is made from stored inputs."""
        return bool(self.image_key or self.reference_keys or self.video_key or self.continues)

    @property
    def all_fragments(self) -> int:
        """Number of fragments, with those that are kept of an earlier video: as a request counts them."""
        return self.num_fragments + (0 if self.continues is None else len(self.continues.kept_ends))

    @property
    def total_frames(self) -> int:
        """Number of frames of the finished video."""
        return self.num_frames if self.video_frames is None else self.video_frames


@dataclass(frozen=True, slots=True)
class NewTask:
    """A validated submit, ready to be stored."""

    uid: str
    """The service's own id: never reused, names the task's files. ``id`` is the client's and may be
    replaced.
    """
    id: str
    model: str
    spec: TaskSpec
    work: float
    """Steps × tokens × forwards per step: the cost to which the estimated run time is proportional."""
    save_path: str
    """The finished video's public path: relative to the output root, or absolute."""
    priority: int = 0
    owner: str = ""
    """Name of the API key of the submit; empty for a service without keys."""
    tokens: int = 0
    """DiT tokens of one forward: videos with the same number take the same time for each unit of work."""
    notes: tuple[str, ...] = ()
    """Sentences for the client about settings that differ from the request."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """The client's request without its images."""
    idempotency_key: str | None = None
    digest: str = ""
    """Hash of the request body: distinguishes a retry from a different request under the same key."""
    callback: Callback | None = None
    """Whom to tell of the task; None for a client that asks for itself."""
    expires_in_s: float | None = None
    """Seconds in which the task must have begun; None without a deadline."""
    enhance_prompt: bool = False
    """Whether the prompt enhancer writes the prompt out before the run."""
    told_s: float | None = None
    """Expected seconds until the task ends, as the client is told at the submit; None when unknown."""
    traceparent: str | None = None
    """The span of the submit, as W3C's Trace Context writes it; None where nothing is traced."""
    upload_url: str | None = field(default=None, repr=False)
    """Presigned URL, a secret, that the finished video is sent to; None: it is fetched."""


@dataclass(frozen=True, slots=True)
class TaskError:
    """The error that ended a task: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Task:
    """A stored task. Times are in seconds since 1970, UTC."""

    uid: str
    id: str
    seq: int
    """Sequence number in the order of arrival."""
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
    """Fencing token of a runner's writes: incremented at each claim; 0 before the first."""
    attempts_left: int
    runner: str | None
    """Id of the replica that runs the task, or ran it last."""
    step: int
    progress: float
    """Progress from 0.0 to 1.0: never decreases, even when a new attempt starts over; 1.0 only on success."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    lease_expires_at: float | None
    artifact: str | None
    """Key of the committed video."""
    error: TaskError | None
    timings: Mapping[str, float]
    """Seconds of the successful run by stage."""
    tokens: int = 0
    """DiT tokens of one forward; 0 for a task of a version that did not record them."""
    version: int = 0
    """Number of moves of the task so far."""
    phase: str = ""
    """Phase of the current attempt, a ``models.phase.Phase``, as it told it last; empty before."""
    callback: Callback | None = None
    """Whom to tell of the task; None for a client that asks for itself."""
    expires_at: float | None = None
    """Time by which the queued task must begin; None without a deadline."""
    frames: int | None = None
    """Number of frames of a video that finished early; None for one with as many as its spec says."""
    previews_until: float | None = None
    """Time until which previews are wanted; None if nobody has looked."""
    enhance_prompt: bool = False
    """Whether the prompt enhancer writes the prompt out before the run."""
    revised_prompt: str | None = None
    """The prompt that the model gets in place of the spec's, in every attempt: None before the enhancer was
    asked, empty where nothing came of that and the plain prompt stands.
    """
    told_s: float | None = None
    """Seconds from submit to end that the client was told at the submit; None if they were unknown."""
    traceparent: str | None = None
    """The span of the submit, as W3C's Trace Context writes it; None where nothing is traced."""
    upload_url: str | None = field(default=None, repr=False)
    """Presigned URL, a secret, that the finished video is sent to; None: it is fetched."""

    @property
    def total_frames(self) -> int:
        """Number of frames of the finished video."""
        return self.frames or self.spec.total_frames

    @property
    def is_final(self) -> bool:
        """True once the task is in a final state."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class TaskVersion:
    """The version of a task, and who sees it."""

    uid: str
    owner: str
    version: int


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """The fields of a queued task that determine its position in the queue and its run time."""

    id: str
    model: str
    owner: str
    priority: int
    seq: int
    work: float
    tokens: int
