"""Generation of one video by a group of processes on this machine, without the service."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from models.engine import EngineSettings, Frames, Generation, GenerationRequest
from models.generate import OnStep, generate
from models.loading import load_engine
from models.parallel.mesh import DEFAULT_TIMEOUT_S
from models.parallel.plan import ParallelPlan
from models.parallel.rank_launcher import LaunchedRank, RankLauncher
from models.phase import OnPhase, Phase, untold
from models.pixel_format import PixelFormat
from models.weights.hub import local_folder

OnNotes = Callable[[tuple[str, ...]], None]
"""Callback with a fragment's notes, before its first step."""


def generate_in_group(
    settings: EngineSettings,
    plan: ParallelPlan,
    request: GenerationRequest,
    on_step: OnStep | None = None,
    on_notes: OnNotes | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    *,
    on_phase: OnPhase = untold,
    pixel_format: PixelFormat = PixelFormat.RGB24,
) -> Iterator[Frames]:
    """Make one video as ``generate`` does, on ``plan.devices`` devices of type ``settings.device`` (``cpu``
    or ``cuda``).

    ``timeout_s``: seconds that a rank may be silent before the run fails. Raises ``GroupLost`` if a rank is
    lost.
    """
    settings = replace(settings, weights=local_folder(settings))
    with RankLauncher(
        _on_rank,
        plan.devices,
        settings,
        plan,
        request,
        pixel_format,
        device=settings.device,
        timeout_s=timeout_s,
    ) as launcher:
        for _, content in launcher.messages():
            if isinstance(content, _StepDone):
                if on_step is not None:
                    on_step(content.step, content.total_steps)
            elif isinstance(content, _Prepared):
                if on_notes is not None:
                    on_notes(content.notes)
            elif isinstance(content, _Entered):
                on_phase(content.phase)
            else:
                yield content


@dataclass(frozen=True, slots=True)
class _Prepared:
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entered:
    phase: Phase


@dataclass(frozen=True, slots=True)
class _StepDone:
    step: int
    total_steps: int


def _on_rank(
    rank: LaunchedRank,
    settings: EngineSettings,
    plan: ParallelPlan,
    request: GenerationRequest,
    pixel_format: PixelFormat,
) -> None:
    rank.join()
    engine = load_engine(replace(settings, device=str(rank.device)), rank.mesh(plan))
    rank.meet()  # ranks finish loading at different times

    def tell(step: int, total_steps: int) -> None:
        if rank.number == 0:
            rank.send(_StepDone(step, total_steps))

    def tell_prepared(generation: Generation) -> None:
        if rank.number == 0:
            rank.send(_Prepared(generation.notes))

    def tell_phase(phase: Phase) -> None:
        if rank.number == 0:
            rank.send(_Entered(phase))

    for frames in generate(
        engine,
        request,
        tell,
        on_prepared=tell_prepared,
        on_phase=tell_phase,
        pixel_format=pixel_format,
    ):
        rank.send(frames)
