"""Field types shared by the surfaces' request models: one set of bounds for each field."""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from models.limits import MAX_LORA_STRENGTH, MAX_LORAS, MAX_REFERENCES
from serve_app.api.http.request_model import WHOLE, RequestModel, Text
from serve_app.submission.task_id import RESERVED_IDS, TASK_ID_PATTERN, is_task_id
from serve_app.submission.video_order import EarlierVideo, SentVideo
from serve_app.tasks.task import MAX_FRAGMENT_PROMPTS_CHARS, MAX_PROMPT_CHARS
from serve_app.tasks.video_output import MAX_FPS, Codec, VideoFormat

MAX_SEED = 2**53 - 1
"""The largest whole number that every JSON reader gives back unchanged."""

MIN_SIDE = 16
MAX_SIDE = 4096
"""Bounds of each side of a frame, in pixels; a model's own may be narrower."""

MAX_FRAGMENTS = 100

_SIZE = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")
_ASPECT = re.compile(r"(\d{1,4})\s*[:/]\s*(\d{1,4})")
_MAX_ASPECT = 16
_LINES = re.compile(r"(\d{1,4})p", re.IGNORECASE)
_MAX_WORDS = 16
_FORMS = f"832x480 or [480, 832] with the height first, each side {MIN_SIDE} to {MAX_SIDE} pixels"


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height in pixels, from ``832x480``. Raises ``ValueError`` with a sentence."""
    found = _SIZE.fullmatch(text.strip())
    sides = (int(found[1]), int(found[2])) if found is not None else (0, 0)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"must be written as 832x480, each side {MIN_SIDE} to {MAX_SIDE} pixels")
    return sides


def _checked_id(text: str) -> str:
    if not is_task_id(text):
        raise ValueError(
            "must be 1 to 128 of the characters A-Z a-z 0-9 . _ -, and none of "
            + ", ".join(sorted(RESERVED_IDS))
        )
    return text


def _checked_size(text: str) -> str:
    parse_size(text)
    return text


def parse_aspect(text: str) -> tuple[int, int]:
    """Return a width and a height, from ``16:9``. Raises ``ValueError`` with a sentence."""
    found = _ASPECT.fullmatch(text.strip())
    width, height = (int(found[1]), int(found[2])) if found is not None else (0, 0)
    if not (width and height and max(width, height) <= _MAX_ASPECT * min(width, height)):
        raise ValueError(f"must be written as 16:9, from {_MAX_ASPECT}:1 to 1:{_MAX_ASPECT}")
    return width, height


def _checked_aspect(text: object) -> object:
    if not isinstance(text, str):
        raise ValueError("must be written as 16:9")
    if text.strip():
        parse_aspect(text)
    return text.strip() or None


def parse_lines(text: str) -> int:
    """Return the lines of a wide frame, from ``720p``. Raises ``ValueError`` with a sentence."""
    found = _LINES.fullmatch(text.strip())
    lines = int(found[1]) if found is not None else 0
    if not MIN_SIDE <= lines <= MAX_SIDE:
        raise ValueError(f"must be written as 720p, from {MIN_SIDE}p to {MAX_SIDE}p")
    return lines


def _checked_resolution(text: object) -> object:
    if not isinstance(text, str):
        raise ValueError("must be written as 720p")
    if text.strip():
        parse_lines(text)
    return text.strip() or None


def _checked_either_size(value: object) -> object:
    """Read ``832x480`` or LightX2V's ``[height, width]``; an empty string or list counts as not sent."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        if value.strip():
            parse_size(value)
        return value.strip() or None
    try:
        shape = _checked_shape(value)
    except ValueError:
        raise ValueError(f"must be written as {_FORMS}") from None
    return f"{shape[1]}x{shape[0]}" if isinstance(shape, list) else None


def _checked_shape(value: object) -> object:
    """Read ``[height, width]``, also as text in a form; an empty list counts as not sent."""
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


def _checked_words(value: object) -> object:
    """Read a list of words, in a form as JSON or with commas; an empty one counts as not sent."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) > _MAX_WORDS or not _are_words(value):
        raise ValueError(
            f'must be a list of at most {_MAX_WORDS} words, such as ["task.started", "task.failed"]'
        )
    return [word.strip() for word in value if word.strip()] or None


def _checked_prompts(value: object) -> object:
    """Read a list of prompts, in a form as JSON; an empty one counts as not sent."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) > MAX_FRAGMENTS or not _are_words(value):
        raise ValueError(
            f'must be a list of at most {MAX_FRAGMENTS} texts, such as ["a calm sea", "a storm"]'
        )
    prompts = [prompt.strip() for prompt in value]
    most, chars = max(map(len, prompts), default=0), sum(map(len, prompts))
    if most > MAX_PROMPT_CHARS or chars > MAX_FRAGMENT_PROMPTS_CHARS:
        bounds = f"{MAX_PROMPT_CHARS} characters in each text, and {MAX_FRAGMENT_PROMPTS_CHARS} in all"
        raise ValueError(f"must have at most {bounds}")
    return prompts or None


def _checked_pictures(value: object) -> object:
    """Read a list of pictures as text, in a form as JSON or one alone; an empty one counts as not sent."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) > MAX_REFERENCES or not _are_words(value):
        raise ValueError(f"must be a list of at most {MAX_REFERENCES} pictures, each as text")
    return [text for text in value if text.strip()] or None


def _are_words(value: list[Any]) -> bool:
    return all(isinstance(word, str) for word in value)


def _is_height_and_width(value: list[Any]) -> bool:
    return len(value) == 2 and all(type(side) is int and MIN_SIDE <= side <= MAX_SIDE for side in value)


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _checked_word(words: Iterable[str]) -> BeforeValidator:
    """Read one of some words, in any case; an empty text counts as not sent."""
    known = tuple(map(str, words))

    def check(value: object) -> object:
        word = value.strip().lower() if isinstance(value, str) else None
        if word == "":
            return None
        if word not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return word

    return BeforeValidator(check)


# A field that is not sent is None; the schema shows only what it takes when it is sent.
Unset = SkipJsonSchema[None]

Prompt = Annotated[Text, BeforeValidator(_stripped), Field(max_length=MAX_PROMPT_CHARS)]
"""Empty is allowed for image-to-video only; ``submission.plan`` rejects other requests without a prompt."""
NegativePrompt = Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)]
TaskId = Annotated[
    Text, AfterValidator(_checked_id), Field(json_schema_extra={"pattern": f"^{TASK_ID_PATTERN}$"})
]
Size = Annotated[Text, BeforeValidator(_stripped), AfterValidator(_checked_size)]
"""Width and height as ``832x480``."""
EitherSize = Annotated[
    Text | Unset,
    BeforeValidator(_checked_either_size),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "integer"}}),
]
"""Width and height as ``832x480``, or height and width as ``[480, 832]``; read as the first."""
Aspect = Annotated[Text | Unset, BeforeValidator(_checked_aspect)]
"""Width to height, as ``16:9``."""
Resolution = Annotated[Text | Unset, BeforeValidator(_checked_resolution)]
"""How fine a frame is, as ``720p``."""
Shape = Annotated[list[int] | Unset, BeforeValidator(_checked_shape)]
"""Height and width as ``[480, 832]``."""
EventTypes = Annotated[list[Text] | Unset, BeforeValidator(_checked_words)]
"""Types of webhook messages."""
Pictures = Annotated[
    list[Text] | Unset,
    BeforeValidator(_checked_pictures),
    WithJsonSchema({"type": "array", "maxItems": MAX_REFERENCES, "items": {"type": "string"}}),
]
"""Pictures as text, in the forms of one."""
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), WHOLE]
Steps = Annotated[int, Field(ge=1, le=200), WHOLE]
Seconds = Annotated[float, Field(gt=0, le=600)]
Wait = Annotated[float, Field(gt=0, le=2_592_000)]
"""Seconds that a task may wait; at most 30 days."""
Frames = Annotated[int, Field(ge=1, le=10_000), WHOLE]
Fragments = Annotated[int, Field(ge=1, le=MAX_FRAGMENTS), WHOLE]
FragmentPrompts = Annotated[
    list[Text] | Unset,
    BeforeValidator(_checked_prompts),
    WithJsonSchema({"type": "array", "maxItems": MAX_FRAGMENTS, "items": {"type": "string"}}),
]
"""A prompt for each fragment."""
Fps = Annotated[int, Field(ge=1, le=MAX_FPS), WHOLE]
DRAWN_SEED = -1
"""Seed value that requests a random seed, as on Wan's own command line."""
Seed = Annotated[int, Field(ge=DRAWN_SEED, le=MAX_SEED), WHOLE]
Control = Annotated[float, Field(ge=0, le=10)]
Guidance = Annotated[float, Field(ge=0, le=50)]
FlowShift = Annotated[float, Field(gt=0, le=100)]
ModelName = Annotated[Text, Field(max_length=64)]
LoraName = Annotated[Text, Field(max_length=256)]
LoraStrength = Annotated[float, Field(ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH)]
Priority = Annotated[int, Field(ge=-1000, le=1000), WHOLE]
"""Range wider than any configured limit, which is checked when the order is planned."""
SavePath = Annotated[Text, Field(max_length=1024)]
Url = Annotated[Text, Field(max_length=2048)]
UploadUrl = Annotated[Text, Field(max_length=8192)]
"""A presigned URL, which with a session's token in it is long."""
Format = Annotated[
    Text | Unset, _checked_word(VideoFormat), WithJsonSchema({"type": "string", "enum": list(VideoFormat)})
]
CodecName = Annotated[
    Text | Unset, _checked_word(Codec), WithJsonSchema({"type": "string", "enum": list(Codec)})
]
Crf = Annotated[int, Field(ge=0, le=max(codec.max_crf for codec in Codec)), WHOLE]
"""Constant rate factor; the range of the chosen codec is checked when the order is planned."""


def without_default(schema: dict[str, Any]) -> None:
    """Drop the default from a field's schema: null says nothing, what is not sent is the model's own."""
    schema.pop("default", None)


class LoraEntry(RequestModel):
    """A LoRA of a request, as an entry of a list."""

    model_config = ConfigDict(extra="forbid")

    name: LoraName = Field(min_length=1, description="As the service's metadata lists it.")
    strength: LoraStrength = Field(default=1.0, description="How much of it.")
    strength_low: LoraStrength | Unset = Field(
        default=None,
        description="How much of it in the low-noise expert; default: as `strength`.",
        json_schema_extra=without_default,
    )


class SourceEntry(RequestModel):
    """An earlier video, as a request names or holds it."""

    model_config = ConfigDict(extra="forbid")

    task_id: TaskId | Unset = Field(default=None, description="Its task.", json_schema_extra=without_default)
    video: Text | Unset = Field(
        default=None,
        description="Instead, a video of your own, in the forms of `video`.",
        json_schema_extra=without_default,
    )
    fragments: Fragments | Unset = Field(
        default=None,
        description="How many of its first fragments are kept.",
        json_schema_extra=without_default,
    )

    @property
    def ordered(self) -> EarlierVideo | SentVideo:
        """What an order goes on from."""
        if self.task_id is None:
            return SentVideo(self.video or "")
        return EarlierVideo(self.task_id, self.fragments)


def _checked_source(value: object) -> object:
    """Read an object of one video, in a form as JSON; a plain text is a task's id."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    elif isinstance(value, str):
        value = {"task_id": value.strip()} if value.strip() else {}
    if not isinstance(value, dict):
        raise ValueError(
            'must be written as {"task_id": "beach-1"} or {"task_id": "beach-1", "fragments": 2}'
        )
    source = {name: part for name, part in value.items() if part is not None and part != ""}
    if source and ("task_id" in source) == ("video" in source):
        raise ValueError("must have a task_id or a video, one of them")
    if "video" in source and "fragments" in source:
        raise ValueError("has no fragments to keep of a video that is no task's; leave them out")
    return source or None


Source = Annotated[
    SourceEntry | None,  # with a union of another kind, an error would name the type as a field
    BeforeValidator(_checked_source),
    WithJsonSchema({"type": "object", **SourceEntry.model_json_schema()}),
]
"""An earlier video."""


def _checked_loras(value: object) -> object:
    """Read a list of objects, also as text in a form."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError('must be written as [{"name": "anime", "strength": 0.8}]')
    if len(value) > MAX_LORAS:
        raise ValueError(f"must have at most {MAX_LORAS} entries")
    return value


Loras = Annotated[
    list[LoraEntry],
    BeforeValidator(_checked_loras),
    WithJsonSchema({"type": "array", "maxItems": MAX_LORAS, "items": LoraEntry.model_json_schema()}),
]
