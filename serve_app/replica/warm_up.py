"""Warm-up: one small video through the whole engine, so that the first client does not pay for it."""

from models.engine import Engine, GenerationRequest
from models.variants import Variant


def warm_up(engine: Engine, variant: Variant) -> None:
    """Make five small frames in one step and drop them. Raises what the engine raises."""
    side = 4 * variant.size_multiple
    request = GenerationRequest(
        prompt="a",
        negative_prompt=variant.negative_prompt,
        width=side,
        height=side,
        num_frames=5,
        fps=variant.fps,
        steps=1,
        guidance_scale=variant.guidance_scale,
        guidance_scale_2=variant.guidance_scale_2,
        flow_shift=variant.flow_shift,
        seed=0,
    )
    generation = engine.prepare(request)
    engine.denoise_step(generation)
    for _ in engine.decode(generation):
        pass
