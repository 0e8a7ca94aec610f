"""One rank of a group: a process with one device that does what its replica commands, one call at a time."""

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from models.engine import Engine, EngineSettings, Frames, Generation, GenerationRequest
from models.parallel.plan import ParallelPlan
from serve_app.replica.engine_factory import engine_factory

_MEMBER = "models.parallel.member"
"""Found by name, as the engine is: the service itself loads no torch."""


@dataclass(frozen=True, slots=True)
class RankStart:
    """Arguments of a rank's start."""

    number: int
    plan: ParallelPlan
    factory: str
    settings: EngineSettings
    timeout_s: float
    """Longest wait of the ranks for each other in a run."""


@dataclass(frozen=True, slots=True)
class RankProcess:
    """The process of a rank."""

    pid: int
    devices: str | None
    """Its ``CUDA_VISIBLE_DEVICES``."""


class RankActor:
    """A Ray actor with one device. Its methods run in order, in one thread; the replica numbers the runs."""

    def __init__(self, start: RankStart) -> None:
        self._start = start
        self._member: Any = importlib.import_module(_MEMBER)
        self._store: Any = None
        self._loaded: Engine | None = None
        self._runs: dict[int, Generation] = {}
        self._decoding: Iterator[Frames] = iter(())

    def process(self) -> RankProcess:
        """Which process and device this rank is."""
        return RankProcess(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"))

    def open_store(self) -> int:
        """The port at which the ranks are to meet, on one rank."""
        self._store = self._member.open_store()
        return int(self._store.port)

    def load(self, port: int) -> None:
        """Join the others and load this rank's part of the engine."""
        start = self._start
        # the only device that it sees
        device = "cuda:0" if start.settings.device == "cuda" else start.settings.device
        member = self._member.Member(port, start.number, start.plan.devices, device, start.timeout_s)
        member.join()
        factory = engine_factory(start.factory)
        self._loaded = factory(replace(start.settings, device=device), member.mesh(start.plan))
        member.meet()

    @property
    def _engine(self) -> Engine:
        assert self._loaded is not None, "load comes first"
        return self._loaded

    def prepare(self, number: int, request: GenerationRequest, after: int | None) -> int:
        """Begin run ``number``; the steps it has. Every other run but ``after`` is dropped."""
        self._decoding = iter(())
        self._runs = {known: run for known, run in self._runs.items() if known == after}
        run = self._engine.prepare(request, after=None if after is None else self._runs[after])
        self._runs[number] = run
        return run.total_steps

    def denoise_step(self, number: int) -> None:
        """Do the next step of a run."""
        self._engine.denoise_step(self._runs[number])

    def preview(self, number: int) -> Frames | None:
        """A run's preview, on rank 0; None on the others."""
        preview = self._engine.preview(self._runs[number])
        return preview if self._start.number == 0 else None

    def begin_decode(self, number: int) -> None:
        """Begin to decode a run, whose chunks ``next_chunk`` gives."""
        self._decoding = self._engine.decode(self._runs[number])

    def next_frames(self) -> Frames | None:
        """On rank 0: the next of the decode's frames, None at its end."""
        return next(self._decoding, None)

    def follow_decode(self) -> None:
        """On the others: take part in the decode until rank 0 ends or leaves it."""
        for _ in self._decoding:
            pass

    def leave_decode(self) -> None:
        """On rank 0: end the decode early, for all."""
        self._decoding = iter(())
