"""Planning of a task: chooses the model, fills in defaults and computes the work."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from models.errors import InvalidRequest, LoraFault
from models.fit import Fit, fit, frames_for, side_of_shape, size_of_shape
from models.lora.catalogue import too_large
from models.lora_uses import check_uses
from models.size_choices import area_of_lines
from models.tuning import WHOLE_STEPS, StepShares
from models.variants import Variant, VideoKind
from serve_app.config.model_settings import ModelSettings
from serve_app.media.source_video import SourceVideo
from serve_app.submission.continuation import (
    check_pictures,
    continued,
    continued_sent,
    continuing,
    like_sent,
)
from serve_app.submission.output_choice import output_of
from serve_app.submission.video_order import OrderFault, VideoOrder
from serve_app.tasks.task import Task, TaskSpec
from serve_app.tasks.work import tokens_of, work_of

Value = TypeVar("Value")

_NAMES_SHOWN = 20
"""Number of LoRA names listed in an error message."""

_SEEDS = 2**31
"""Seeds are drawn below this, so that they fit a client's 32-bit integer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A fully decided video, with a note for each deviation from the request."""

    model: str
    variant: Variant
    spec: TaskSpec
    fit_notes: tuple[str, ...]
    lora_notes: tuple[str, ...]
    references: int = 0
    """Number of reference pictures."""
    source: str | None = None
    """Key of the task's video that it goes on from."""
    step_shares: StepShares = WHOLE_STEPS
    """Shares of the steps that cost the model less."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the video's size and length, then on its LoRAs."""
        return self.fit_notes + self.lora_notes

    @property
    def tokens(self) -> int:
        """DiT tokens of one forward; a reference picture has those of a latent frame."""
        return tokens_of(self.spec, self.variant, self.references)

    @property
    def work(self) -> float:
        """Tokens × forward passes, summed over all fragments."""
        return work_of(self.spec, self.tokens, self.step_shares)


def plan(
    order: VideoOrder, models: Sequence[ModelSettings], source: Task | SourceVideo | None = None
) -> Plan:
    """Decide everything the order leaves open. Raises ``OrderFault`` for what cannot be made.

    Of an order with a first frame the size is decided by ``shaped``, once the picture has been read.

    ``source``: what the order goes on from, the video's task or a client's own video. Of an order with its
    own video everything is decided once more with it, after it has been measured.
    """
    if isinstance(source, Task):
        order = continuing(order, source, models)
    elif order.continue_from is not None:
        check_pictures(order)
    kind = order.kind
    prompt, fragment_prompts = _prompts(order)
    model = _choose(order, models, kind)
    variant, shape = model.spec, order.aspect
    if isinstance(source, SourceVideo):
        order = like_sent(order, source, variant)
        shape = shape or (source.width, source.height)
    fps = order.fps or variant.fps
    fitted = _fit(order, variant, fps, shape)
    fragments = _num_fragments(order, fitted, kind)
    guidance, guidance_2 = _guidance(order, variant)
    lora_notes = _lora_notes(order, model)
    spec = TaskSpec.of(
        variant,
        prompt,
        negative_prompt=order.negative_prompt,
        width=fitted.width,
        height=fitted.height,
        num_frames=fitted.num_frames,
        fps=fps,
        steps=order.steps,
        guidance_scale=guidance,
        guidance_scale_2=guidance_2,
        flow_shift=order.flow_shift,
        control_scale=order.control_scale,
        seed=_or(order.seed, secrets.randbelow(_SEEDS)),
        loras=order.loras,
        num_fragments=fragments,
        fragment_prompts=fragment_prompts,
        video_frames=variant.video_frames(fitted.num_frames, fragments),
    )
    if isinstance(source, Task):
        spec = continued(spec, order, variant, source)
    elif order.continue_from is not None:
        spec = continued_sent(spec, variant)
    spec = replace(spec, output=output_of(order, spec))
    return Plan(
        model.name,
        variant,
        spec,
        fitted.notes,
        tuple(lora_notes),
        len(order.references),
        source.artifact if isinstance(source, Task) else None,
        model.step_shares,
    )


def shaped(planned: Plan, order: VideoOrder, picture: tuple[int, int]) -> Plan:
    """Return the plan in the shape of the order's first frame or video, where the order leaves that open.

    ``picture``: its width and height in pixels.
    """
    if order.aspect is not None or (order.width is not None and order.height is not None):
        return planned
    fitted = _fit(order, planned.variant, planned.spec.fps, picture)
    spec = replace(planned.spec, width=fitted.width, height=fitted.height)
    return replace(planned, spec=spec, fit_notes=fitted.notes)


def cut_to(planned: Plan, frames: int) -> Plan:
    """Return the plan with no more frames than the video to change has, at the plan's frame rate."""
    spec, stride = planned.spec, planned.variant.temporal_stride
    if frames >= spec.num_frames:
        return planned
    num_frames = (frames - 1) // stride * stride + 1
    note = f"The video has {frames} frames at {spec.fps} a second, so {num_frames} are made."
    spec = replace(spec, num_frames=num_frames, video_frames=num_frames)
    return replace(planned, spec=spec, fit_notes=(*planned.fit_notes, note))


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _choose(order: VideoOrder, models: Sequence[ModelSettings], kind: VideoKind) -> ModelSettings:
    name = order.model
    kinds = {kind} if order.continue_from is None else {"t2v", "i2v"}
    able: Sequence[ModelSettings] = [model for model in models if kinds & model.spec.tasks]
    if name:
        able = [model for model in able if model.name == name]
    if able:
        able = _taking_inputs(order, able)
    if able:
        if not order.loras:
            return able[0]
        return _with_loras(order, able)
    if name and name not in {model.name for model in models}:
        served = ", ".join(model.name for model in models)
        raise OrderFault("model", f"no model of that name is served; there is {served}.")
    subject = f"the model {name} makes no video" if name else "no served model makes a video"
    if kind == "flf2v":
        raise OrderFault("last_frame", f"{subject} from a first to a last frame; leave it out.")
    if kind == "i2v":
        raise OrderFault("first_frame", f"{subject} from an image; leave it out.")
    raise OrderFault("first_frame", f"is required, because {subject} without an image.")


def _taking_inputs(order: VideoOrder, able: Sequence[ModelSettings]) -> Sequence[ModelSettings]:
    """Return the models that take the order's video and references. Raises ``OrderFault`` if none does."""
    if order.mask is not None and order.video is None:
        raise OrderFault("mask", "needs a video beside it, which it is of.")
    if order.video is not None and order.continue_from is not None:
        raise OrderFault("video", "cannot be changed in a video that goes on from another; leave one out.")
    if order.video is not None and order.first_frame is not None:
        raise OrderFault("video", "takes the place of a first frame; send only one of them.")
    for field in ("video", "control_scale"):
        if getattr(order, field) is not None:
            able = [model for model in able if model.spec.control_blocks]
            if not able:
                subject = f"the model {order.model}" if order.model else "no served model"
                takes = "has nothing to control" if order.model else "takes a video to change or a control"
                raise OrderFault(field, f"{subject} {takes}; leave it out.")
    return _taking_references(order, able)


def _taking_references(order: VideoOrder, able: Sequence[ModelSettings]) -> Sequence[ModelSettings]:
    """Return the models that take the order's reference pictures. Raises ``OrderFault`` if none does."""
    taking = [model for model in able if model.spec.max_references >= len(order.references)]
    if taking:
        return taking
    most = max(model.spec.max_references for model in able)
    subject = f"the model {order.model}" if order.model else "no model that could make the video"
    if most and order.model:
        raise OrderFault("references", f"{subject} takes at most {most} reference images.")
    takes = "takes no" if order.model else "takes"
    raise OrderFault("references", f"{subject} {takes} reference images; leave them out.")


def _with_loras(order: VideoOrder, able: Sequence[ModelSettings]) -> ModelSettings:
    """Return the first model that can apply the LoRAs, else the first that has them, else the first."""
    wanted = {lora.name for lora in order.loras}
    having = [model for model in able if wanted <= set(model.lora_names())]
    for model in having if len(having) > 1 else ():
        with suppress(OrderFault):
            _lora_notes(order, model)
            return model
    return (having or able)[0]


def _fit(order: VideoOrder, variant: Variant, fps: int, shape: tuple[int, int] | None) -> Fit:
    num_frames, source = _num_frames(order, variant, fps)
    width, height = _size(order, variant, shape)
    try:
        fitted = fit(variant, width, height, num_frames)
    except InvalidRequest as error:
        # The field that was sent, not the one it was turned into.
        field = source if error.field == "num_frames" else error.field
        if order.lines is not None and not order.has_size and field == "width":
            field = "lines"
        raise OrderFault(field, str(error)) from None
    unused = []
    if order.aspect is not None and order.width is not None and order.height is not None:
        unused.append("The aspect ratio was not used, because a size was sent.")
    if order.lines is not None and order.has_size:
        unused.append("The resolution was not used, because a size was sent.")
    return replace(fitted, notes=(*fitted.notes, *unused)) if unused else fitted


def _size(order: VideoOrder, variant: Variant, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Return the requested width and height in pixels: as sent, else from ``shape``, else the model's own."""
    if not order.has_size:
        area = None if order.lines is None else area_of_lines(variant, order.lines)
        return size_of_shape(variant, shape or (variant.width, variant.height), area)
    if order.width is not None and order.height is not None:
        return order.width, order.height
    if shape is None:
        if order.first_frame is None and order.video is None:
            return _or(order.width, variant.width), _or(order.height, variant.height)
        shape = variant.width, variant.height  # until the picture is read
    if order.width is not None:
        return order.width, side_of_shape(variant, order.width, shape[1] / shape[0])
    height = _or(order.height, variant.height)
    return side_of_shape(variant, height, shape[0] / shape[1]), height


def _num_frames(order: VideoOrder, variant: Variant, fps: int) -> tuple[int, str]:
    """Return the frames that were asked for, and the field that asked."""
    if order.num_frames is not None:
        return order.num_frames, "num_frames"
    if order.duration_s is not None:
        return frames_for(fps, order.duration_s), "duration_s"
    return variant.num_frames, "num_frames"


def _lora_notes(order: VideoOrder, model: ModelSettings) -> list[str]:
    """Return what is to be told of the LoRAs that were asked for.

    Raises ``OrderFault`` if the model lacks one, or cannot apply it, or not all of them together.
    """
    if not order.loras:
        return []
    try:
        check_uses(order.loras, two_experts=model.spec.boundary is not None)
    except InvalidRequest as error:
        raise OrderFault(error.field, str(error)) from None
    names = model.lora_names()
    notes: list[str] = []
    least_bytes = 0
    for entry, lora in enumerate(order.loras):
        field = f"loras[{entry}].name"
        if lora.name not in names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            there = f"there are {', '.join(names[:_NAMES_SHOWN])}{more}" if names else "it has none"
            raise OrderFault(field, f"{model.name} has no LoRA of that name; {there}.")
        try:
            notes += model.lora_notes(lora.name)
            least_bytes += model.lora_bytes(lora.name)
            if least_bytes > model.lora_cache_bytes:
                raise too_large(model.lora_cache_bytes)
        except LoraFault as fault:
            raise OrderFault(field, f"the LoRA {lora.name!r} {fault}") from None
    return notes


def _num_fragments(order: VideoOrder, fitted: Fit, kind: VideoKind) -> int:
    fragments = order.num_fragments or len(order.fragment_prompts) or 1
    if fragments > 1:
        if kind == "flf2v" or order.video is not None:
            given = "with a last frame" if kind == "flf2v" else "made from another one"
            raise OrderFault("num_fragments", f"a video {given} has only one.")
        if fitted.num_frames == 1:
            raise OrderFault("num_fragments", "a fragment has at least 5 frames.")
    return fragments


def _prompts(order: VideoOrder) -> tuple[str, tuple[str, ...]]:
    """Return the prompt, and those of the fragments if they have their own."""
    of_fragments = tuple(prompt or order.prompt for prompt in order.fragment_prompts)
    prompt = order.prompt or next(iter(of_fragments), "")
    if not all((prompt, *of_fragments)) and order.first_frame is None:
        raise OrderFault("prompt", "is required for a video without an image.")
    wanted = order.num_fragments or len(of_fragments)
    if len(of_fragments) not in (0, wanted):
        raise OrderFault(
            "fragment_prompts",
            f"has {len(of_fragments)} prompts for {wanted} fragments that are made; send one for each.",
        )
    return prompt, of_fragments


def _guidance(order: VideoOrder, variant: Variant) -> tuple[float, float | None]:
    if order.guidance_scale_2 is not None and variant.guidance_scale_2 is None:
        raise OrderFault("guidance_scale_2", f"{variant.name} has one expert and one guidance; leave it out.")
    if variant.distilled:
        asked = {"guidance_scale": order.guidance_scale, "guidance_scale_2": order.guidance_scale_2}
        for field, scale in asked.items():
            if (scale or 0) > 1:
                raise OrderFault(
                    field, f"{variant.name} is distilled and runs without guidance; leave it out."
                )
    return (
        _or(order.guidance_scale, variant.guidance_scale),
        _or(order.guidance_scale_2, variant.guidance_scale_2),
    )
