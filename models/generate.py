"""Generation of a whole video in one loop: prepare, denoise and decode each fragment."""

from collections.abc import Callable, Iterator

from models.engine import Engine, Frames, Generation, GenerationRequest
from models.phase import OnPhase, Phase, untold
from models.pixel_format import PixelFormat

OnStep = Callable[[int, int], None]
"""Callback with the steps done and the total steps, over all fragments. An exception from it ends the run."""

OnPrepared = Callable[[Generation], None]
"""Callback with the run of a fragment before its first step. An exception from it ends the run."""

OnDecoded = Callable[[], None]
"""Callback at the end of a fragment. An exception from it ends the run."""


def generate(
    engine: Engine,
    request: GenerationRequest,
    on_step: OnStep | None = None,
    on_decoded: OnDecoded | None = None,
    *,
    on_prepared: OnPrepared | None = None,
    on_phase: OnPhase = untold,
    pixel_format: PixelFormat = PixelFormat.RGB24,
) -> Iterator[Frames]:
    """Make one video and yield its frames, in ``pixel_format``, as they are decoded.

    ``on_prepared`` is called before a fragment's first step, ``on_step`` after each step, ``on_decoded`` when
    the caller has taken a fragment's last frame and asks for more, ``on_phase`` at the begin of each phase.
    """
    generation: Generation | None = None
    for fragment in range(request.num_fragments):
        on_phase(Phase.PREPARING)
        generation = engine.prepare(request, after=generation, on_phase=on_phase)
        if on_prepared is not None:
            on_prepared(generation)
        on_phase(Phase.DENOISING)
        steps = generation.total_steps
        while generation.step < steps:
            engine.denoise_step(generation)
            if on_step is not None:
                on_step(fragment * steps + generation.step, request.num_fragments * steps)
        on_phase(Phase.DECODING)
        yield from engine.decode(generation, pixel_format)
        if on_decoded is not None:
            on_decoded()
