"""Generation of a whole video in one loop: prepare, denoise and decode each fragment."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from models.engine import Engine, Frames, Generation, GenerationRequest, Snapshot
from models.phase import OnPhase, Phase, untold
from models.pixel_format import PixelFormat

OnStep = Callable[[int, int], None]
"""Callback with the steps done and the total steps, over all fragments. An exception from it ends the run."""

OnPrepared = Callable[[Generation], None]
"""Callback with the run of a fragment before its first step. An exception from it ends the run."""

IsEnough = Callable[[], bool]
"""Asked after each step and each fragment; True ends the video there, with what there is of it."""


def never() -> bool:
    """Make the whole video."""
    return False


_FROM_THE_BEGIN: Mapping[int, Snapshot] = MappingProxyType({})

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
    is_enough: IsEnough = never,
    pixel_format: PixelFormat = PixelFormat.RGB24,
    snapshots: Mapping[int, Snapshot] = _FROM_THE_BEGIN,
) -> Iterator[Frames]:
    """Make one video and yield its frames, in ``pixel_format``, as they are decoded.

    ``on_prepared`` is called before a fragment's first step, ``on_step`` after each step, ``on_decoded`` when
    the caller has taken a fragment's last frame and asks for more, ``on_phase`` at the begin of each phase.
    Once ``is_enough`` the video that the last step predicts is decoded, and no further fragment is begun.
    ``snapshots``: by fragment, where an earlier run of the request was: its steps up to there are not done
    again.
    """
    generation: Generation | None = None
    for fragment in range(request.num_fragments):
        on_phase(Phase.PREPARING)
        generation = engine.prepare(request, after=generation, on_phase=on_phase)
        if (snapshot := snapshots.get(fragment)) is not None:
            engine.restore(generation, snapshot)
        if on_prepared is not None:
            on_prepared(generation)
        on_phase(Phase.DENOISING)
        steps = generation.total_steps
        while generation.step < generation.total_steps:
            engine.denoise_step(generation)
            if on_step is not None:
                on_step(fragment * steps + generation.step, request.num_fragments * steps)
            if is_enough():
                engine.cut_short(generation)
        on_phase(Phase.DECODING)
        yield from engine.decode(generation, pixel_format)
        if on_decoded is not None:
            on_decoded()
        if is_enough():
            return
