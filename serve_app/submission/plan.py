"""From a request to what will be made: the model, every number, and what it will cost."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from models.errors import InvalidRequest
from models.fit import Fit, fit, frames_for
from models.variants import Task, Variant
from models.video_spec import LoraUse
from serve_app.api.native.video_request import VideoRequest, parse_size
from serve_app.config.model_settings import ModelSettings
from serve_app.errors import InvalidField
from serve_app.tasks.task import TaskSpec

Value = TypeVar("Value")

_NAMES_SHOWN = 20
"""LoRAs that a refusal names."""

_SEEDS = 2**31
"""Seeds are drawn below this, so that they fit a client's 32-bit integer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes to. ``work`` is steps × tokens × forwards a step, of all fragments.

    ``tokens`` are those of one forward.
    """

    model: str
    spec: TaskSpec
    work: float
    tokens: int
    notes: tuple[str, ...]


def plan(request: VideoRequest, models: Sequence[ModelSettings], *, kind: Task) -> Plan:
    """Decide everything the request leaves open. Raises ``InvalidField`` for what cannot be made."""
    _refuse_unoffered(request)
    model = _choose(request, models, kind)
    variant = model.spec
    fps = request.fps or variant.fps
    fitted = _fit(request, variant, fps)
    fragments = _num_fragments(request, fitted, kind)
    guidance, guidance_2 = _guidance(request, variant)
    spec = TaskSpec.of(
        variant,
        request.prompt,
        negative_prompt=request.negative_prompt,
        width=fitted.width,
        height=fitted.height,
        num_frames=fitted.num_frames,
        fps=fps,
        steps=request.infer_steps or None,
        guidance_scale=guidance,
        guidance_scale_2=guidance_2,
        flow_shift=request.flow_shift or None,
        seed=_or(request.seed, secrets.randbelow(_SEEDS)),
        loras=_loras(request, model),
        num_fragments=fragments,
        video_frames=variant.video_frames(fitted.num_frames, fragments),
    )
    forwards = 2 if max(guidance, guidance_2 or 0) > 1 else 1
    tokens = variant.tokens(spec.width, spec.height, fitted.num_frames)
    return Plan(model.name, spec, float(spec.total_steps * tokens * forwards), tokens, fitted.notes)


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _refuse_unoffered(request: VideoRequest) -> None:
    """What is not offered is refused: a client that asked for it must not get something else in silence."""
    if request.callback_url:
        raise InvalidField(
            "callback_url", "callback_url: callbacks are not offered yet; poll the task's status instead."
        )


def _choose(request: VideoRequest, models: Sequence[ModelSettings], kind: Task) -> ModelSettings:
    name = request.model
    able = [model for model in models if kind in model.spec.tasks]
    if name:
        able = [model for model in able if model.name == name]
    if able:
        if not request.lora_name:
            return able[0]
        return next((model for model in able if request.lora_name in model.lora_names()), able[0])
    if name and name not in {model.name for model in models}:
        served = ", ".join(model.name for model in models)
        raise InvalidField("model", f"model: no model of that name is served; there is {served}.")
    subject = f"the model {name} makes no video" if name else "no served model makes a video"
    if kind == "flf2v":
        raise InvalidField(
            "last_frame_path", f"last_frame_path: {subject} from a first to a last frame; leave it out."
        )
    if kind == "i2v":
        raise InvalidField("image_path", f"image_path: {subject} from an image; leave it out.")
    raise InvalidField("image_path", f"image_path: is required, because {subject} without an image.")


def _fit(request: VideoRequest, variant: Variant, fps: int) -> Fit:
    width, height = _size(request, variant)
    num_frames, source = _num_frames(request, variant, fps)
    try:
        return fit(variant, width, height, num_frames)
    except InvalidRequest as error:
        # The refusal names what the client sent, not what it was turned into.
        field = source if error.field == "num_frames" else error.field
        raise InvalidField(field, f"{field}: {error}") from None


def _size(request: VideoRequest, variant: Variant) -> tuple[int, int]:
    """Width and height that were asked for, however they were spelt."""
    asked: list[tuple[int | None, int | None]] = [(request.width, request.height)]
    if request.target_shape:
        asked.append((request.target_shape[1], request.target_shape[0]))
    if request.size:
        asked.append(parse_size(request.size))
    widths = {width for width, _ in asked if width}
    heights = {height for _, height in asked if height}
    if len(widths) > 1 or len(heights) > 1:
        field = "size" if request.size else "target_shape"
        raise InvalidField(field, f"{field}: contradicts the size that another field asks for.")
    return next(iter(widths), variant.width), next(iter(heights), variant.height)


def _num_frames(request: VideoRequest, variant: Variant, fps: int) -> tuple[int, str]:
    """The frames that were asked for, and the field that asked."""
    if len({request.num_frames, request.target_video_length} - {None}) > 1:
        raise InvalidField("target_video_length", "target_video_length: contradicts num_frames.")
    if request.num_frames:
        return request.num_frames, "num_frames"
    if request.target_video_length:
        return request.target_video_length, "target_video_length"
    if request.video_duration:
        return frames_for(fps, request.video_duration), "video_duration"
    return variant.num_frames, "num_frames"


def _loras(request: VideoRequest, model: ModelSettings) -> tuple[LoraUse, ...]:
    """The LoRA that was asked for. Raises ``InvalidField`` if the model has none of that name."""
    if not request.lora_name:
        return ()
    names = model.lora_names()
    if request.lora_name not in names:
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        there = f"there are {', '.join(names[:_NAMES_SHOWN])}{more}" if names else "it has none"
        raise InvalidField("lora_name", f"lora_name: {model.name} has no LoRA of that name; {there}.")
    return (LoraUse(request.lora_name, _or(request.lora_strength, 1.0)),)


def _num_fragments(request: VideoRequest, fitted: Fit, kind: Task) -> int:
    if request.num_fragments > 1:
        if kind == "flf2v":
            raise InvalidField("num_fragments", "num_fragments: a video with a last frame has only one.")
        if fitted.num_frames == 1:
            raise InvalidField("num_fragments", "num_fragments: a fragment has at least 5 frames.")
    return request.num_fragments


def _guidance(request: VideoRequest, variant: Variant) -> tuple[float, float | None]:
    if request.guidance_scale_2 is not None and variant.guidance_scale_2 is None:
        raise InvalidField(
            "guidance_scale_2", f"guidance_scale_2: {variant.name} has one expert; send guidance_scale alone."
        )
    if variant.distilled:
        for field in ("guidance_scale", "guidance_scale_2"):
            if (getattr(request, field) or 0) > 1:
                raise InvalidField(
                    field, f"{field}: {variant.name} is distilled and runs without guidance; leave it out."
                )
    return (
        _or(request.guidance_scale, variant.guidance_scale),
        _or(request.guidance_scale_2, variant.guidance_scale_2),
    )
