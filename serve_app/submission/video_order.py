"""A request for one video, independent of any surface; each surface converts its own requests to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from models.variants import VideoKind
from models.video_spec import LoraUse
from serve_app.tasks.video_output import Codec, VideoFormat


@dataclass(frozen=True, slots=True)
class KeptInput:
    """A picture or video of an earlier task, by its key among the stored inputs."""

    key: str


Picture: TypeAlias = bytes | str | KeptInput
"""A picture, or a video, as a client sent it: an uploaded file's bytes, or text (base64, a URL or a path)."""


@dataclass(frozen=True, slots=True)
class EarlierVideo:
    """The video of an earlier task, to go on from."""

    task_id: str
    fragments: int | None = None
    """How many of its first fragments the new video keeps; None: it keeps none, and goes on from the end."""


@dataclass(frozen=True, slots=True)
class SentVideo:
    """A client's own video, to go on from: from its end."""

    file: Picture


class OrderFault(Exception):
    """Error in an order: the invalid ``VideoOrder`` field, and a sentence without the field's name.

    Of a field with entries the path of the part that is meant, such as ``loras[1].name``.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrder:
    """Order for one video. A field that the client did not send is None and takes the model's default."""

    prompt: str
    negative_prompt: str | None = None
    enhance_prompt: bool = False
    """Whether the service's prompt enhancer, if there is one, writes the prompt out."""
    first_frame: Picture | None = None
    """The first frame of an image-to-video task."""
    last_frame: Picture | None = None
    """Needs a first frame beside it."""
    references: tuple[Picture, ...] = ()
    """Pictures of subjects that appear in the video; no frames of it."""
    continue_from: EarlierVideo | SentVideo | None = None
    video: Picture | None = None
    """A video to change, in place of a first frame."""
    mask: Picture | None = None
    """A video, white where ``video`` is to change; None: everywhere."""
    control_scale: float | None = None
    """How strongly the video, the frames and the references steer."""
    width: int | None = None
    """Pixels, as ``height``."""
    height: int | None = None
    aspect: tuple[int, int] | None = None
    """Width to height of a video whose size is not sent; None: as the first frame, or the model's own."""
    lines: int | None = None
    """Fineness of a video whose size is not sent: 720 for 720p. None: as fine as the model's own size."""
    num_frames: int | None = None
    """Frames of each fragment; wins over ``duration_s``."""
    duration_s: float | None = None
    """Seconds of each fragment."""
    num_fragments: int | None = None
    """None: one, or as many as the prompts of fragments or the video that is kept in part."""
    fragment_prompts: tuple[str, ...] = ()
    """A prompt for each fragment; an empty one stands for ``prompt``."""
    fps: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    """Guidance of the low-noise expert."""
    flow_shift: float | None = None
    seed: int | None = None
    """None: one is drawn."""
    model: str | None = None
    """Name of a served model; None: the first that can make the video."""
    loras: tuple[LoraUse, ...] = ()
    priority: int = 0
    """Higher goes first."""
    format: VideoFormat | None = None
    codec: Codec | None = None
    """Needs a format that can hold it."""
    crf: int | None = None
    """Constant rate factor; needs a format with a codec."""
    return_last_frame: bool = False
    save_path: str | None = None
    """Name of the finished video; None: one made of the task's id."""
    callback_url: str | None = None
    """Where the client wants to be told of the task."""
    callback_events: tuple[str, ...] = ()
    """Types of the events to tell of; empty: the end of the task, whatever it is."""
    upload_url: str | None = None
    """Presigned URL, a secret, to which the client wants the finished video sent."""
    expires_in_s: float | None = None
    """Seconds in which the task must have begun; None: it waits for as long as it takes."""
    task_id: str | None = None
    idempotency_key: str | None = None
    """A second order with the same key gives the same task."""
    notes: tuple[str, ...] = ()
    """Sentences of the surface for the client, such as which fields it ignored."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """The request in the surface's own words, to be shown again and compared under an idempotency key."""

    @property
    def reads_files(self) -> bool:
        """Whether planning it takes longer than a moment: files are read, or ffmpeg is asked what it has."""
        return bool(self.loras or self.format or self.codec)

    @property
    def has_files(self) -> bool:
        """Whether a picture or a video was sent."""
        files = (self.first_frame, self.last_frame, self.video, self.mask)
        is_sent = isinstance(self.continue_from, SentVideo)
        return is_sent or bool(self.references) or any(file is not None for file in files)

    @property
    def has_size(self) -> bool:
        """Whether a side was sent, or both."""
        return self.width is not None or self.height is not None

    @property
    def kind(self) -> VideoKind:
        """Kind of task implied by the frames. Raises ``OrderFault`` for a last frame without a first."""
        if self.last_frame is not None:
            if self.first_frame is None:
                raise OrderFault("last_frame", "needs a first frame beside it.")
            return "flf2v"
        return "t2v" if self.first_frame is None else "i2v"
