"""Request for a video in OpenAI's words and those that self-hosted servers add, and its order."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from models.video_spec import LoraUse
from serve_app.api.http.request_model import RequestModel, Text
from serve_app.api.http.video_fields import (
    DRAWN_SEED,
    EitherSize,
    FlowShift,
    Fps,
    Frames,
    Guidance,
    LoraEntry,
    Loras,
    ModelName,
    NegativePrompt,
    Prompt,
    Seed,
    Side,
    Steps,
    Unset,
    parse_size,
    without_default,
)
from serve_app.errors import InvalidField
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import Picture, VideoOrder

UPLOAD = "input_reference"
"""The file field of the form."""

_PICTURES = (UPLOAD, "image_reference", "reference_url")
_MORE = ("extra_body", "extra_params")
_MAX_SECONDS = 600
_WORDS = FieldWords({"steps": "num_inference_steps", "duration_s": "seconds", "first_frame": UPLOAD})


def _read_json(value: object) -> object:
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
    value = _read_json(value)
    if isinstance(value, Mapping):
        if "file_id" in value:
            raise ValueError("no files are kept here; send the picture itself, or its URL as image_url")
        value = value.get("image_url")
        value = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(value, str):
        raise ValueError('must be a file, a text or {"image_url": text}')
    return value.strip() or None


def _checked_loras(value: object) -> object:
    """Read one LoRA or several, by name or as objects with the words of other servers."""
    value = _read_json(value)
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


Length = Annotated[
    float | Unset, BeforeValidator(_checked_seconds), WithJsonSchema({"type": ["string", "number"]})
]
"""Seconds, as OpenAI has them in text, or as a number."""
Reference = Annotated[
    Text | Unset, BeforeValidator(_checked_picture), WithJsonSchema({"type": ["string", "object"]})
]
"""A picture; read as text."""
AnyLoras = Annotated[
    Loras,
    BeforeValidator(_checked_loras),
    WithJsonSchema({"type": ["string", "object", "array"], "items": LoraEntry.model_json_schema()}),
]
Count = Annotated[int, BeforeValidator(_checked_count), WithJsonSchema({"type": "integer", "enum": [1]})]


def _field(description: str, example: object, default: object = None) -> Any:
    return Field(
        default=default, description=description, examples=[example], json_schema_extra=without_default
    )


class CreateRequest(RequestModel):
    """Request for a video. Omitted fields take the model's defaults; `extra_body` holds more of the same."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt"]})

    prompt: Prompt = _field(
        "What the video shows; may be empty beside a picture.", "A white cat sitting by the beach", ""
    )
    model: ModelName | Unset = _field("A served model's name; default: the first one able to do it.", "demo")
    seconds: Length = _field("Length; default: the model's own.", "5")
    size: EitherSize = _field(
        "Width and height; default: the picture's shape, or the model's own.", "832x480"
    )
    input_reference: Reference = _field(
        'The first frame: a file, base64, a `data:` URL, an http(s) URL, or `{"image_url": …}` with one.', ""
    )
    image_reference: Reference = _field("Another name of `input_reference`.", "")
    reference_url: Reference = _field("Another name of `input_reference`.", "")
    negative_prompt: NegativePrompt | Unset = _field("What the video should not show.", "blurry")
    enhance_prompt: bool = _field(
        "Have a chat model write the prompt out before the run, where the service has one; the video then "
        "has `revised_prompt`.",
        False,
        False,
    )
    num_inference_steps: Steps | Unset = _field("Denoise steps; default: the model's own.", 4)
    guidance_scale: Guidance | Unset = _field("How strongly the prompt steers.", 5.0)
    guidance_scale_2: Guidance | Unset = _field("The same for the low-noise expert.", 3.0)
    flow_shift: FlowShift | Unset = _field("Shift of the noise schedule.", 5.0)
    num_frames: Frames | Unset = _field("Frames, of the form 4k+1; wins over `seconds`.", 81)
    fps: Fps | Unset = _field("Frames a second; default: the model's own.", 16)
    width: Side | Unset = _field("Pixels; with `height` in place of `size`.", 832)
    height: Side | Unset = _field("Pixels.", 480)
    seed: Seed | Unset = _field("Same seed, same build: same video. Default, or -1: drawn.", 42)
    lora: AnyLoras = _field('A LoRA: its name, or `{"name": …, "strength": …}`.', "", [])
    loras: AnyLoras = _field("Several of them.", [{"name": "anime", "strength": 0.8}], [])
    n: Count = _field("Videos of a request: one.", 1, 1)

    @property
    def picture_word(self) -> str:
        """Name of the field that holds the first frame."""
        return next((word for word in _PICTURES if getattr(self, word)), UPLOAD)

    def words(self) -> FieldWords:
        """Return the field names of this request, which has several spellings of pictures, LoRAs and size."""
        spelt = {"first_frame": self.picture_word}
        if self.size and self.width is None and self.height is None:
            spelt |= {"width": "size", "height": "size"}
        if self.lora:
            spelt |= {"loras": "lora", "loras[0].name": "lora"}
        return _WORDS.but(**spelt)

    def order(
        self, *, upload: bytes | None, notes: tuple[str, ...], idempotency_key: str | None
    ) -> VideoOrder:
        """Return the order of this request. ``notes``: of fields that are not read.

        Raises ``InvalidField`` where two fields contradict each other.
        """
        width, height = self._size()
        return VideoOrder(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            enhance_prompt=self.enhance_prompt,
            first_frame=self._picture(upload),
            width=width,
            height=height,
            num_frames=self.num_frames,
            duration_s=self.seconds,
            fps=self.fps,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            guidance_scale_2=self.guidance_scale_2,
            flow_shift=self.flow_shift,
            seed=None if self.seed == DRAWN_SEED else self.seed,
            model=self.model,
            loras=self._loras(),
            idempotency_key=idempotency_key,
            notes=notes,
            sent=self.model_dump(mode="json", exclude_unset=True),
        )

    def _size(self) -> tuple[int | None, int | None]:
        if not self.size:
            return self.width, self.height
        width, height = parse_size(self.size)
        if self.width not in (None, width) or self.height not in (None, height):
            raise InvalidField("size", "size: contradicts width and height; send only one of them.")
        return width, height

    def _picture(self, upload: bytes | None) -> Picture | None:
        sent = [word for word in _PICTURES if getattr(self, word)]
        if len(sent) + (upload is not None) > 1:
            raise InvalidField(sent[-1], f"{sent[-1]}: another picture was sent too; send only one.")
        return upload if upload is not None else getattr(self, sent[0]) if sent else None

    def _loras(self) -> tuple[LoraUse, ...]:
        if self.lora and self.loras:
            raise InvalidField("loras", "loras: lora was sent too; send only one.")
        return tuple(LoraUse(use.name, use.strength, use.strength_low) for use in self.lora or self.loras)


def with_extras(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a body together with those in its ``extra_body`` and ``extra_params``.

    Raises ``InvalidField`` for a field that is there twice, with two values.
    """
    found = {name: value for name, value in fields.items() if name not in _MORE}
    for name in _MORE:
        more = _read_json(fields.get(name)) or {}
        if not isinstance(more, Mapping):
            raise InvalidField(name, f"{name}: must be an object with further fields.")
        for inner, value in more.items():
            if found.setdefault(inner, value) != value:
                raise InvalidField(
                    name, f"{name}: has a {inner[:40]} other than the request's own; send it once."
                )
    return found
