"""The work of a video: what the time of its run is proportional to."""

from models.variants import Variant
from serve_app.tasks.task import TaskSpec


def tokens_of(spec: TaskSpec, variant: Variant, references: int) -> int:
    """Return the DiT tokens of one forward; each reference picture has those of a latent frame."""
    of_a_reference = variant.tokens(spec.width, spec.height, 1)
    return variant.tokens(spec.width, spec.height, spec.num_frames) + references * of_a_reference


def work_of(spec: TaskSpec, tokens: int) -> float:
    """Return steps × tokens × forwards a step, summed over all fragments."""
    forwards = 2 if max(spec.guidance_scale, spec.guidance_scale_2 or 0) > 1 else 1
    return float(spec.total_steps * tokens * forwards)
