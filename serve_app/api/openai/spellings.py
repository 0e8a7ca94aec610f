"""Values of a request as clients of OpenAI's shape spell them: pictures, videos, lengths, LoRAs."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from models.limits import MAX_REFERENCES
from serve_app.api.http.request_model import RequestModel, Text
from serve_app.api.http.video_fields import LoraEntry, Loras, Source, TaskId, Unset
from serve_app.submission.task_id import is_task_id

_MAX_SECONDS = 600
_FRAME_TYPES = ["first_frame", "last_frame"]


def read_json(value: object) -> object:
    """Read a form's text as JSON if it looks so; anything else is returned as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass  # whoever reads the field says what it takes
    return value


def _checked_seconds(value: object) -> object:
    if isinstance(value, str):
        if not value.strip():
            return None
        value = float(value) if value.strip().replace(".", "", 1).isdecimal() else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_SECONDS:
        raise ValueError(f'must be a number of seconds such as "5", above 0 and up to {_MAX_SECONDS}')
    return float(value)


def _checked_picture(value: object) -> object:
    """Read a picture as text, or as ``{"image_url": text}``."""
    return _text_in(read_json(value), "image_url")


def _checked_pictures(value: object) -> object:
    """Read several pictures, or one alone."""
    value = read_json(value)
    entries = value if isinstance(value, list) else [value]
    if len(entries) > MAX_REFERENCES:
        raise ValueError(f"must be a list of at most {MAX_REFERENCES} pictures")
    return [text for text in map(_checked_picture, entries) if text] or None


def _checked_frames(value: object) -> object:
    """Read frames as OpenRouter's clients spell them: each a picture with its ``frame_type``."""
    value = read_json(value)
    if value == "":
        return None
    frames = [_frame(entry) for entry in (value if isinstance(value, list) else [value])]
    if len({frame["frame_type"] for frame in frames}) < len(frames):
        raise ValueError("must have each frame_type once")
    return frames or None


def _frame(entry: object) -> Mapping[str, object]:
    if not isinstance(entry, Mapping) or entry.get("frame_type") not in _FRAME_TYPES:
        words = " or ".join(_FRAME_TYPES)
        raise ValueError(f'must be a list of {{"frame_type": {words}, "image_url": {{"url": text}}}}')
    return {"frame_type": entry["frame_type"], "image_url": _text_in(entry, "image_url")}


def _checked_clip(value: object) -> object:
    """Read a video as text, or as ``{"video_url": text}``."""
    return _text_in(read_json(value), "video_url")


def _checked_video(value: object) -> object:
    """Read a video as text, as ``{"video_url": text}``, or as the ``{"id": text}`` of an earlier one."""
    value = read_json(value)
    if not (isinstance(value, Mapping) and "id" in value):
        return _checked_clip(value)
    if not isinstance(value["id"], str) or not is_task_id(value["id"]):
        raise ValueError('must be the id of a video, as in {"id": "beach-1"}')
    return {"id": value["id"]}


def _text_in(value: object, word: str) -> object:
    """Return a file's text from what holds it: itself, or an object with the text as ``word``."""
    if isinstance(value, Mapping):
        if "file_id" in value:
            raise ValueError(f"no files are kept here; send the file itself, or its URL as {word}")
        value = value.get(word)
        value = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(value, str):
        raise ValueError(f'must be a file, a text or {{"{word}": text}}')
    return value.strip() or None


def _checked_source(value: object) -> object:
    """Read the name of an earlier video, which has its id as ``task_id`` or as ``id``."""
    value = read_json(value)
    if isinstance(value, Mapping) and "id" in value and "task_id" not in value:
        return {**{name: part for name, part in value.items() if name != "id"}, "task_id": value["id"]}
    return value


def _checked_loras(value: object) -> object:
    """Read one LoRA or several, by name or as objects with the words of other servers."""
    value = read_json(value)
    entries = value if isinstance(value, list) else [value]
    if entries == [""]:
        return []
    return [_lora_entry(entry) for entry in entries]


def _lora_entry(entry: object) -> Mapping[str, Any]:
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping):
        raise ValueError('must be a name, {"name": "anime", "strength": 0.8} or a list of those')
    known = dict(entry)
    path = known.pop("path", None)
    known.pop("int_id", None)
    name = known.get("name") or path
    if isinstance(name, str):
        known["name"] = PurePosixPath(name).name.removesuffix(".safetensors")
    if "scale" in known:
        known.setdefault("strength", known.pop("scale"))
    return known


def _checked_count(value: object) -> object:
    if value not in (1, "1"):
        raise ValueError("a request makes one video; send several requests for several videos")
    return 1


class VideoId(RequestModel):
    """An earlier video, as OpenAI's clients name it."""

    id: TaskId


class FrameImage(RequestModel):
    """A picture, and the frame that it is of the video."""

    frame_type: str
    image_url: Text


Length = Annotated[
    float | Unset, BeforeValidator(_checked_seconds), WithJsonSchema({"type": ["string", "number"]})
]
"""Seconds, as OpenAI has them in text, or as a number."""
Picture = Annotated[
    Text | Unset, BeforeValidator(_checked_picture), WithJsonSchema({"type": ["string", "object"]})
]
"""A picture; read as text."""
Pictures = Annotated[
    list[Text] | Unset,
    BeforeValidator(_checked_pictures),
    WithJsonSchema({"type": "array", "maxItems": MAX_REFERENCES, "items": {"type": ["string", "object"]}}),
]
"""Several pictures; read as texts."""
FrameImages = Annotated[
    list[FrameImage] | None,
    BeforeValidator(_checked_frames),
    WithJsonSchema(
        {
            "type": "array",
            "maxItems": len(_FRAME_TYPES),
            "items": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "enum": ["image_url"]},
                    "image_url": {"type": ["string", "object"]},
                    "frame_type": {"type": "string", "enum": _FRAME_TYPES},
                },
                "required": ["image_url", "frame_type"],
            },
        }
    ),
]
"""The first and the last frame."""
Clip = Annotated[Text | Unset, BeforeValidator(_checked_clip), WithJsonSchema({"type": ["string", "object"]})]
"""A video; read as text."""
Video = Annotated[
    Text | VideoId | Unset, BeforeValidator(_checked_video), WithJsonSchema({"type": ["string", "object"]})
]
"""A video: read as text, or the id of an earlier one."""
AnySource = Annotated[Source, BeforeValidator(_checked_source)]
"""An earlier video to go on from."""
AnyLoras = Annotated[
    Loras,
    BeforeValidator(_checked_loras),
    WithJsonSchema({"type": ["string", "object", "array"], "items": LoraEntry.model_json_schema()}),
]
Count = Annotated[int, BeforeValidator(_checked_count), WithJsonSchema({"type": "integer", "enum": [1]})]
