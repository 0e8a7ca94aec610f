"""A rank of a group: a process with one device that executes its replica's calls, one at a time."""

import importlib
import os
import queue
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from models.engine import Engine, EngineSettings, Frames, Generation, GenerationRequest, Snapshot
from models.parallel.plan import ParallelPlan
from models.phase import Phase
from models.pixel_format import PixelFormat
from serve_app.config.tracing_settings import TracingSettings
from serve_app.media.video_encoding import Encoder, require
from serve_app.replica.engine_factory import engine_factory
from serve_app.replica.rank_spans import RankSpans
from serve_app.tracing.tracer import tracer_of

PHASES = "phases"
"""The concurrency group of ``next_phase``: a thread of its own, which waits while another prepares."""

LIFE = "life"
"""The concurrency group in which ``process`` is asked for while other calls go on."""

_MEMBER = "models.parallel.member"
"""Imported by name, like the engine, so that the service itself imports no torch."""


@dataclass(frozen=True, slots=True)
class RankStart:
    """Parameters of a rank: its number, the parallel plan, and the engine to load."""

    number: int
    plan: ParallelPlan
    factory: str
    settings: EngineSettings
    timeout_s: float
    """Longest wait of the ranks for each other in a run, in seconds."""
    encoder: Encoder = "libx264"
    """What encodes the videos, on the device of rank 0."""
    is_on_several_nodes: bool = False
    """Whether the ranks reach each other at their nodes' addresses, and not within this machine."""
    tracing: TracingSettings | None = None
    part: str = ""
    """The deployment that it is a rank of, for its spans."""


@dataclass(frozen=True, slots=True)
class RankProcess:
    """The process of a rank."""

    pid: int
    devices: str | None
    """The process's ``CUDA_VISIBLE_DEVICES``."""
    node: str = ""
    """Ray's id of the node that it is on."""


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """What the replica needs to know of a run that a rank has prepared."""

    total_steps: int
    notes: tuple[str, ...]
    evictions: Mapping[str, int]
    """Those of the rank's engine so far."""


class RankActor:
    """A Ray actor with one device; its methods but ``next_phase`` run in order, in one thread. The replica
    numbers the runs.
    """

    def __init__(self, start: RankStart) -> None:
        self._start = start
        self._spans = RankSpans(tracer_of(start.tracing, start.part), start.number)
        self._member: Any = importlib.import_module(_MEMBER)
        self._store: Any = None
        self._loaded: Engine | None = None
        self._runs: dict[int, Generation] = {}
        self._decoding: Iterator[Frames] = iter(())
        self._phases: queue.SimpleQueue[tuple[int, Phase | None]] = queue.SimpleQueue()
        """Phases of a ``prepare`` by the run's number, and None at its end."""

    def process(self) -> RankProcess:
        """Return the process and the device of this rank."""
        node = ray.get_runtime_context().get_node_id()
        return RankProcess(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), node)

    def open_store(self) -> tuple[str, int]:
        """Open the rendezvous store on this rank; return its host and port."""
        self._store = self._member.open_store(self._host)
        return self._host, int(self._store.port)

    @property
    def _host(self) -> str:
        in_reach = (
            ray.util.get_node_ip_address() if self._start.is_on_several_nodes else self._member.LOOPBACK
        )
        return str(in_reach)

    def load(self, host: str, port: int) -> None:
        """Join the process group at a store and load this rank's part. Raises ``ModelError``, on rank 0 also
        where its device has not the video encoder.
        """
        start = self._start
        if start.number == 0:
            require(start.encoder)
        # before the ranks have joined: imports take seconds, and after that one waits for the other's choices
        factory = engine_factory(start.factory)
        # the only visible device
        device = "cuda:0" if start.settings.device == "cuda" else start.settings.device
        places = {"host": host, "own_host": self._host}
        member = self._member.Member(
            port, start.number, start.plan.devices, device, start.timeout_s, **places
        )
        member.join()
        self._loaded = factory(replace(start.settings, device=device), member.mesh(start.plan))
        member.meet()

    @property
    def _engine(self) -> Engine:
        assert self._loaded is not None, "call load first"
        return self._loaded

    def prepare(
        self, number: int, request: GenerationRequest, after: int | None, traceparent: str | None
    ) -> PreparedRun:
        """Prepare run ``number``, whose span is ``traceparent``. Drops every other run except ``after``."""
        self._decoding = iter(())
        self._spans.run = traceparent
        self._runs = {known: run for known, run in self._runs.items() if known == after}
        before = None if after is None else self._runs[after]
        try:
            with self._spans.of("rank prepare"):
                run = self._engine.prepare(
                    request, after=before, on_phase=lambda phase: self._phases.put((number, phase))
                )
        finally:
            self._phases.put((number, None))
        self._runs[number] = run
        return PreparedRun(run.total_steps, run.notes, self._engine.evictions)

    def next_phase(self, number: int) -> Phase | None:
        """Wait for the next phase of a run's ``prepare``, and return it; None at its end. Drops those of runs
        before it. Call in the concurrency group ``PHASES``.
        """
        while True:
            run, phase = self._phases.get()
            if run == number:
                return phase

    def denoise_step(self, number: int) -> None:
        """Execute the next denoise step of a run."""
        with self._spans.of("rank step"):
            self._engine.denoise_step(self._runs[number])

    def cut_short(self, number: int) -> None:
        """End the denoising of a run before its last step."""
        self._engine.cut_short(self._runs[number])

    def snapshot(self, number: int) -> Snapshot | None:
        """Return the state of a run, which is the same on every rank. Call on rank 0 only."""
        pending = self._engine.snapshot(self._runs[number])
        return None if pending is None else pending()

    def restore(self, number: int, snapshot: Snapshot) -> None:
        """Put a prepared run at a snapshot."""
        self._engine.restore(self._runs[number], snapshot)

    def preview(self, number: int) -> Frames | None:
        """Return a run's preview on rank 0, None on the other ranks."""
        preview = self._engine.preview(self._runs[number])
        return preview if self._start.number == 0 else None

    def begin_decode(self, number: int, pixel_format: PixelFormat) -> None:
        """Start the decode of a run; ``next_frames`` returns its frames."""
        frames = self._engine.decode(self._runs[number], pixel_format)
        self._decoding = self._spans.over("rank decode", frames)

    def next_frames(self) -> Frames | None:
        """Return the next frames of the decode, None at its end. Call on rank 0 only."""
        return next(self._decoding, None)

    def follow_decode(self) -> None:
        """Take part in the decode until rank 0 ends or leaves it. Call on all ranks except rank 0."""
        for _ in self._decoding:
            pass

    def leave_decode(self) -> None:
        """End the decode early on all ranks. Call on rank 0 only."""
        self._decoding = iter(())
