"""The work of a video: what the time of its run is proportional to."""

from models.tuning import WHOLE_STEPS, StepShares, guided_steps, low_resolution_steps
from models.variants import Variant
from serve_app.tasks.task import TaskSpec

_SAVED = 0.75
"""What a step at half the height and width saves of its forward passes: three quarters of the tokens."""


class ForwardPasses:
    """The forward passes of a run's steps, in those of full size: two for each that is guided."""

    def __init__(self, spec: TaskSpec, shares: StepShares = WHOLE_STEPS) -> None:
        """``shares``: of the steps of each fragment that cost less; the model's."""
        self._steps = spec.steps
        has_guidance = max(spec.guidance_scale, spec.guidance_scale_2 or 0) > 1
        self._guided = guided_steps(spec.steps, shares.unguided) if has_guidance else 0
        self._small = 0 if spec.has_inputs else low_resolution_steps(spec.steps, shares.low_resolution)

    @property
    def of_dearest(self) -> int:
        """Return those of the dearest step."""
        return 2 if self._guided > self._small else 1

    def of_first(self, steps: int) -> float:
        """Return those of the first steps of all fragments together."""
        fragments, rest = divmod(steps, self._steps)
        passes = steps + fragments * self._guided + min(rest, self._guided)
        small = min(steps, self._small)  # of the first fragment: each further one is shown the one before
        return passes - _SAVED * (small + min(small, self._guided))


def tokens_of(spec: TaskSpec, variant: Variant, references: int) -> int:
    """Return the DiT tokens of one forward; each reference picture has those of a latent frame."""
    of_a_reference = variant.tokens(spec.width, spec.height, 1)
    return variant.tokens(spec.width, spec.height, spec.num_frames) + references * of_a_reference


def work_of(spec: TaskSpec, tokens: int, shares: StepShares) -> float:
    """Return tokens × forward passes, of all fragments. ``shares``: see ``ForwardPasses``."""
    return tokens * ForwardPasses(spec, shares).of_first(spec.total_steps)
