"""The whole of a run as one loop, for whoever needs no step of it alone."""

from collections.abc import Callable, Iterator

from models.engine import Engine, Frames, GenerationRequest

OnStep = Callable[[int, int], None]
"""Called with the steps done and the steps in all. What it raises ends the run."""


def generate(engine: Engine, request: GenerationRequest, on_step: OnStep | None = None) -> Iterator[Frames]:
    """Make one video and yield its frames, ``[n, height, width, 3]`` uint8, as they are decoded."""
    generation = engine.prepare(request)
    while generation.step < generation.total_steps:
        engine.denoise_step(generation)
        if on_step is not None:
            on_step(generation.step, generation.total_steps)
    yield from engine.decode(generation)
