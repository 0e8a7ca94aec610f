"""The whole of a run as one loop, for whoever needs no step of it alone."""

from collections.abc import Callable, Iterator

from models.engine import Engine, Frames, Generation, GenerationRequest

OnStep = Callable[[int, int], None]
"""Called with the steps done and the steps in all, of every fragment. What it raises ends the run."""


def generate(engine: Engine, request: GenerationRequest, on_step: OnStep | None = None) -> Iterator[Frames]:
    """Make one video and yield its frames, ``[n, height, width, 3]`` uint8, as they are decoded."""
    generation: Generation | None = None
    for fragment in range(request.num_fragments):
        generation = engine.prepare(request, after=generation)
        steps = generation.total_steps
        while generation.step < steps:
            engine.denoise_step(generation)
            if on_step is not None:
                on_step(fragment * steps + generation.step, request.num_fragments * steps)
        yield from engine.decode(generation)
