"""The work of a video: what the time of its run is proportional to."""

from models.tuning import guided_steps
from models.variants import Variant
from models.video_spec import VideoSpec
from serve_app.tasks.task import TaskSpec


class ForwardPasses:
    """The forward passes of a run's steps: two for each that is guided."""

    def __init__(self, spec: VideoSpec, unguided_steps: float = 0.0) -> None:
        """``unguided_steps``: see ``models.tuning.Tuning``."""
        self._steps = spec.steps
        has_guidance = max(spec.guidance_scale, spec.guidance_scale_2 or 0) > 1
        self._guided = guided_steps(spec.steps, unguided_steps) if has_guidance else 0

    def of_first(self, steps: int) -> int:
        """Return those of the first steps of all fragments together."""
        fragments, rest = divmod(steps, self._steps)
        return steps + fragments * self._guided + min(rest, self._guided)


def tokens_of(spec: TaskSpec, variant: Variant, references: int) -> int:
    """Return the DiT tokens of one forward; each reference picture has those of a latent frame."""
    of_a_reference = variant.tokens(spec.width, spec.height, 1)
    return variant.tokens(spec.width, spec.height, spec.num_frames) + references * of_a_reference


def work_of(spec: TaskSpec, tokens: int, unguided_steps: float) -> float:
    """Return tokens × forward passes, of all fragments. ``unguided_steps``: see ``ForwardPasses``."""
    return float(tokens * ForwardPasses(spec, unguided_steps).of_first(spec.total_steps))
