"""The state of one run of the Wan engine, and the stages that it goes through."""

from dataclasses import dataclass

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
    """The steps ``begin`` … ``end - 1`` of a run, which one expert takes."""

    denoiser: Denoiser
    guidance_scale: float
    """1 where there is no guidance."""
    begin: int
    end: int


@dataclass(slots=True)
class WanGeneration:
    """One run. ``latents``: float32 ``[1, channels, frames, height, width]``, as of ``step``."""

    request: GenerationRequest
    solver: Solver
    latents: Tensor
    condition: Condition
    embeddings: tuple[Tensor, ...]
    """The prompt and, if any stage is guided, the negative prompt, as the text encoder left them."""
    stages: tuple[Stage, ...]
    rotation: Tensor
    part: Fragment
    loras: ChosenLoras
    prompts: tuple[TextKeys, ...] = ()
    """The keys of the present stage's prompts: apart, or stacked as one batch."""
    caches: tuple[StepCache | None, ...] = ()
    """What is remembered for each of ``prompts``, the deciding one first; None where no step is skipped."""
    skipped_steps: int = 0
    """Of the steps done, those that left out most of the transformer."""
    step: int = 0

    @property
    def fragment(self) -> int:
        """Which fragment of the video it makes, from 0."""
        return self.part.index

    @property
    def stage(self) -> Stage:
        """The expert that does the next step."""
        return next(stage for stage in self.stages if self.step < stage.end)

    @property
    def total_steps(self) -> int:
        """Steps of the schedule."""
        return len(self.solver.schedule.timesteps)
