"""Types of the request fields that surfaces share: one set of bounds, whatever a surface calls the field."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from serve_app.api.http.request_model import WHOLE, Text
from serve_app.submission.task_id import RESERVED_IDS, TASK_ID_PATTERN, is_task_id

MAX_PROMPT_CHARS = 4096
MAX_SEED = 2**53 - 1
"""The largest whole number that every JSON reader gives back unchanged."""

MIN_SIDE = 16
MAX_SIDE = 4096
"""Bounds of each side of a frame, in pixels; a model's own may be narrower."""

_SIZE = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")


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


def _checked_shape(value: object) -> object:
    """Read a list, also as text in a form. LightX2V's clients write an empty one for no wish."""
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
NegativePrompt = Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)]
TaskId = Annotated[
    Text, AfterValidator(_checked_id), Field(json_schema_extra={"pattern": f"^{TASK_ID_PATTERN}$"})
]
Size = Annotated[Text, BeforeValidator(_stripped), AfterValidator(_checked_size)]
"""Width and height as ``832x480``."""
Shape = Annotated[list[int] | Unset, BeforeValidator(_checked_shape)]
"""Height and width as ``[480, 832]``."""
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), WHOLE]
Steps = Annotated[int, Field(ge=1, le=200), WHOLE]
Seconds = Annotated[float, Field(gt=0, le=600)]
Frames = Annotated[int, Field(ge=1, le=10_000), WHOLE]
Fragments = Annotated[int, Field(ge=1, le=100), WHOLE]
Fps = Annotated[int, Field(ge=1, le=60), WHOLE]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE]
Guidance = Annotated[float, Field(ge=0, le=50)]
FlowShift = Annotated[float, Field(gt=0, le=100)]
ModelName = Annotated[Text, Field(max_length=64)]
LoraName = Annotated[Text, Field(max_length=256)]
LoraStrength = Annotated[float, Field(ge=-10, le=10)]
Priority = Annotated[int, Field(ge=-1000, le=1000), WHOLE]
"""Wider than any service's own limit, which is checked with the order."""
SavePath = Annotated[Text, Field(max_length=1024)]
Url = Annotated[Text, Field(max_length=2048)]
