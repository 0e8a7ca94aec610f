"""The model that makes the tasks of another one, which is not served any more."""

from models.errors import InvalidRequest
from models.fit import Fit, fit
from models.variants import Variant, VideoKind
from serve_app.config.model_settings import ModelSettings
from serve_app.tasks.task import TaskSpec


def misfit(spec: TaskSpec, model: ModelSettings) -> str | None:
    """Return why ``model`` cannot make a video just as it was decided for another one; None where it can.

    The reason goes on from the model's name.
    """
    variant = model.spec
    if not _kinds(spec) & variant.tasks:
        return "makes no video from what was sent"
    if not _makes(variant, spec):
        return f"makes no video of {spec.width}x{spec.height} and {spec.total_frames} frames"
    if (spec.guidance_scale_2 is None) != (variant.guidance_scale_2 is None):
        return "has another number of experts, and of guidance scales"
    if variant.distilled != (max(spec.guidance_scale, spec.guidance_scale_2 or 0) <= 1):
        return f"runs {'without' if variant.distilled else 'with'} guidance"
    if len(spec.reference_keys) > variant.max_references:
        return f"takes at most {variant.max_references} reference images"
    if not variant.control_blocks and (spec.video_key is not None or spec.control_scale != 1):
        return "takes no video to change and no control"
    if spec.loras and (missing := {use.name for use in spec.loras} - set(model.lora_names())):
        return f"has no LoRA {', '.join(sorted(missing))}"
    return None


def _kinds(spec: TaskSpec) -> frozenset[VideoKind]:
    if spec.continues is not None:
        return frozenset({"t2v", "i2v"})
    if spec.last_image_key is not None:
        return frozenset({"flf2v"})
    return frozenset({"t2v" if spec.image_key is None else "i2v"})


def _makes(variant: Variant, spec: TaskSpec) -> bool:
    """Return whether the variant makes frames of that size and number, and joins fragments alike."""
    size = spec.width, spec.height, spec.num_frames
    try:
        if fit(variant, *size) != Fit(*size):
            return False
    except InvalidRequest:
        return False
    if spec.continues is not None:
        return variant.overlap(spec.num_frames) == spec.continues.tail
    return variant.video_frames(spec.num_frames, spec.num_fragments) == spec.total_frames
