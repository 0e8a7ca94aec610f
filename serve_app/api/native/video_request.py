"""The fields of a video request: one model for JSON bodies and for forms."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from serve_app.api.http.request_model import WHOLE, RequestModel, Text

MAX_PROMPT_CHARS = 4096
MAX_SEED = 2**53 - 1
"""The largest whole number that every JSON reader gives back unchanged."""

MIN_SIDE = 16
MAX_SIDE = 4096
"""Bounds of each side of a frame, in pixels; a model's own may be narrower."""

_ONE_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAA"
    "CklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)
"""The smallest picture there is, for the documentation: short, and taken as it stands."""

_TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SIZE = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")
_RESERVED_IDS = frozenset({".", "..", "queue"})
"""Ids whose own URL would be read as something else."""


def is_task_id(text: str) -> bool:
    """Whether a task can have this id."""
    return _TASK_ID.fullmatch(text) is not None and text not in _RESERVED_IDS


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels, from ``832x480``. Raises ``ValueError`` with a sentence."""
    found = _SIZE.fullmatch(text.strip())
    sides = (int(found[1]), int(found[2])) if found is not None else (0, 0)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"must be written as 832x480, each side {MIN_SIDE} to {MAX_SIDE} pixels")
    return sides


def _checked_id(text: str) -> str:
    if not is_task_id(text):
        raise ValueError(
            "must be 1 to 128 of the characters A-Z a-z 0-9 . _ -, and none of "
            + ", ".join(sorted(_RESERVED_IDS))
        )
    return text


def _checked_size(text: str) -> str:
    parse_size(text)
    return text


def _checked_shape(value: object) -> object:
    """A form writes the list as text; LightX2V's clients write an empty list for no wish."""
    if isinstance(value, str):
        try:
            value = json.loads(value if value.lstrip().startswith("[") else f"[{value}]")
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or (value and not _is_height_and_width(value)):
        raise ValueError(
            f"must be written as [480, 832], height first, each side {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    return value or None


def _is_height_and_width(value: list[Any]) -> bool:
    return len(value) == 2 and all(type(side) is int and MIN_SIDE <= side <= MAX_SIDE for side in value)


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


# A field that is not sent is None; the schema shows only what it takes when it is sent.
Unset = SkipJsonSchema[None]
Prompt = Annotated[Text, BeforeValidator(_stripped), Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
TaskId = Annotated[
    Text, AfterValidator(_checked_id), Field(json_schema_extra={"pattern": r"^[A-Za-z0-9._-]{1,128}$"})
]
Size = Annotated[Text, BeforeValidator(_stripped), AfterValidator(_checked_size)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), WHOLE]
Shape = Annotated[list[int] | Unset, BeforeValidator(_checked_shape)]
Frames = Annotated[int, Field(ge=1, le=10_000), WHOLE]
Guidance = Annotated[float, Field(ge=0, le=50)]


def _field(description: str, example: object) -> Any:
    return Field(
        default=None, description=description, examples=[example], json_schema_extra=_without_default
    )


def _without_default(schema: dict[str, Any]) -> None:
    # "default: null" says nothing: what is not sent is the model's own.
    schema.pop("default", None)


class VideoRequest(RequestModel):
    """A video to make. What is not sent is the model's own; `/v1/service/metadata` lists that."""

    prompt: Prompt = Field(
        description="What the video shows; surrounding blanks are dropped.",
        examples=["A white cat sitting by the beach under sunset sky"],
    )
    negative_prompt: Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)] | Unset = _field(
        "What the video should not show; default: the model's own.", "blurry, low quality, static"
    )
    image_path: Text = Field(
        default="",
        description="The first frame: base64, a `data:` URL, an http(s) URL where the service reads those, "
        "or a file under one of its input folders. JPEG, PNG or WebP. Makes it image-to-video.",
        examples=[_ONE_PIXEL],
    )
    last_frame_path: Text = Field(
        default="",
        description="The last frame, in the same forms; for a model that takes one, beside a first.",
        examples=[""],
    )
    infer_steps: Annotated[int, Field(ge=1, le=200), WHOLE] | Unset = _field(
        "Denoise steps; default: the model's own, 4 for distilled models.", 4
    )
    video_duration: Annotated[float, Field(gt=0, le=600)] | Unset = _field(
        "Seconds: 4·round(fps·seconds/4)+1 frames are made. Default: the model's own length, about 5 s.", 5
    )
    num_frames: Frames | Unset = _field(
        "Frames, of the form 4k+1 (else the nearest is taken); wins over `video_duration`.", 81
    )
    target_video_length: Frames | Unset = _field("Another name of `num_frames`.", 81)
    fps: Annotated[int, Field(ge=1, le=60), WHOLE] | Unset = _field(
        "Frames a second; default: the model's own.", 16
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | Unset = _field(
        "Same seed, same build: same video. Default: drawn, and reported in the status.", 42
    )
    height: Side | Unset = _field("Pixels, rounded down to what the model makes.", 480)
    width: Side | Unset = _field("Pixels, rounded down to what the model makes.", 832)
    size: Size | Unset = _field("Width and height in one; each side from 16 to 4096.", "832x480")
    target_shape: Shape = _field("Height and width in one; each from 16 to 4096.", [480, 832])
    num_fragments: Annotated[int, Field(ge=1, le=100), WHOLE] = Field(
        default=1,
        description="Consecutive fragments of that length, each going on from the end of the one before; "
        "one video.",
        examples=[1],
    )
    guidance_scale: Guidance | Unset = _field(
        "How strongly the prompt steers; up to 1 is without guidance, as distilled models always run.", 5.0
    )
    guidance_scale_2: Guidance | Unset = _field(
        "The same for the low-noise expert, for models with two experts.", 3.0
    )
    flow_shift: Annotated[float, Field(gt=0, le=100)] | Unset = _field("Shift of the noise schedule.", 5.0)
    model: Annotated[Text, Field(max_length=64)] | Unset = _field(
        "A served model's name; default: the first one able to do it.", "demo"
    )
    lora_name: Annotated[Text, Field(max_length=256)] | Unset = _field(
        "A LoRA that the model is served with; an unknown name is refused.", ""
    )
    lora_strength: Annotated[float, Field(ge=-10, le=10)] | Unset = _field("How much of the LoRA.", 1.0)
    priority: Annotated[int, Field(ge=-1000, le=1000), WHOLE] = Field(
        default=0, description="Higher goes first, within the service's own limit.", examples=[0]
    )
    callback_url: Annotated[Text, Field(max_length=2048)] | Unset = _field("Refused: not offered yet.", "")
    save_result_path: Annotated[Text, Field(max_length=1024)] | Unset = _field(
        "A file name under the output root; default: `videos/<task_id>.mp4`.", "cats/beach.mp4"
    )
    task_id: TaskId | Unset = _field("The task's id, which no other task has; default: a new one.", "beach-1")
