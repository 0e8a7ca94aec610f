"""The state of one run of the Wan engine, and its stages."""

from dataclasses import dataclass, replace

from torch import Tensor

from models.attention.cross_attention import TextKeys
from models.conditioning.conditioner import Condition
from models.engine import GenerationRequest
from models.lora.cache import ChosenLoras
from models.pipeline.fragment import Fragment
from models.pipeline.sampling import Solver
from models.transformer.denoiser import Denoiser
from models.transformer.step_cache import StepCache


@dataclass(frozen=True, slots=True)
class Stage:
    """The steps ``begin`` … ``end - 1`` of a run, all by one expert, all with guidance or all without, and
    all of one size.
    """

    denoiser: Denoiser
    guidance_scale: float
    """Guidance scale of the expert; 1 means no guidance."""
    begin: int
    end: int
    is_small: bool = False
    """Half the height and width."""

    def small_until(self, step: int) -> tuple["Stage", ...]:
        """Divide the stage into one that is small as far as ``step`` and one of full size; leave out what has
        no steps.
        """
        split = min(max(step, self.begin), self.end)
        parts = replace(self, end=split, is_small=True), replace(self, begin=split)
        return tuple(part for part in parts if part.begin < part.end)

    def guided_until(self, step: int) -> tuple["Stage", ...]:
        """Divide the stage into one that is guided as far as ``step`` and one without guidance; leave out
        what has no steps.
        """
        if self.guidance_scale <= 1:
            step = self.end
        split = min(max(step, self.begin), self.end)
        parts = replace(self, end=split), replace(self, guidance_scale=1.0, begin=split)
        return tuple(part for part in parts if part.begin < part.end)


@dataclass(slots=True)
class WanGeneration:
    """State of a run. ``latents``: float32 ``[1, channels, f, h, w]`` after ``step`` steps."""

    request: GenerationRequest
    solver: Solver
    latents: Tensor
    condition: Condition
    embeddings: tuple[Tensor, ...]
    """Text embeddings of the prompt and, if any stage is guided, of the negative prompt."""
    stages: tuple[Stage, ...]
    rotation: Tensor
    part: Fragment
    loras: ChosenLoras
    needed_bytes: int
    """Estimate of the memory that the run takes on its device."""
    noise: Tensor | None = None
    """Noise of full size while the latents are small, else None."""
    notes: tuple[str, ...] = ()
    """Notes on the prompts; in a group, rank 0 alone has those of the text encoder."""
    prompts: tuple[TextKeys, ...] = ()
    """Text keys of the current stage's prompts: separate, or stacked as one batch."""
    caches: tuple[StepCache | None, ...] = ()
    """Step cache for each of ``prompts``, the leader first; None where no step is skipped."""
    skipped_steps: int = 0
    """Number of steps so far in which the step cache skipped all blocks but the first."""
    step: int = 0
    is_cut: bool = False
    """True once the denoising was ended before the last step."""

    @property
    def fragment(self) -> int:
        """Index of the run's fragment, from 0."""
        return self.part.index

    @property
    def stage(self) -> Stage:
        """Stage of the next step."""
        return next(stage for stage in self.stages if self.step < stage.end)

    @property
    def small_steps(self) -> int:
        """Number of steps, the first ones, that are small."""
        return max((stage.end for stage in self.stages if stage.is_small), default=0)

    @property
    def total_steps(self) -> int:
        """Number of steps in the schedule, or of those done when it was cut short."""
        return self.step if self.is_cut else len(self.solver.schedule.timesteps)
