"""How a run's steps are divided into stages: by expert, by guidance and by size."""

from models.engine import GenerationRequest
from models.pipeline.generation import Stage
from models.pipeline.parts import Parts
from models.pipeline.sampling import Schedule, distilled_high_noise_steps, high_noise_steps
from models.tuning import guided_steps, low_resolution_steps
from models.variants import Variant


def stages_of(
    variant: Variant,
    parts: Parts,
    request: GenerationRequest,
    schedule: Schedule,
    unguided: float,
    low_resolution: float,
) -> tuple[Stage, ...]:
    """Divide the steps of a schedule. ``unguided``, ``low_resolution``: shares of them, the last that run
    without guidance, and the first that run at half the height and width.
    """
    high, low = request.guidance_scale, request.guidance_scale_2
    if low is None:
        low = high
    if variant.distilled:
        high = low = 1.0
    steps = len(schedule.timesteps)
    experts: tuple[Stage, ...] = (Stage(parts.denoiser, high, 0, steps),)
    if parts.low_noise is not None and variant.boundary is not None:
        switch = (
            distilled_high_noise_steps(steps)
            if variant.distilled
            else high_noise_steps(schedule, variant.boundary)
        )
        experts = Stage(parts.denoiser, high, 0, switch), Stage(parts.low_noise, low, switch, steps)
    small, guided = low_resolution_steps(steps, low_resolution), guided_steps(steps, unguided)
    sized = [part for stage in experts for part in stage.small_until(small)]
    return tuple(part for stage in sized for part in stage.guided_until(guided))
