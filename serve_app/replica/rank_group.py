"""A replica's engine over several devices: one rank actor for each, in lockstep."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

import psutil
import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from models.engine import (
    EngineSettings,
    Frames,
    Generation,
    GenerationRequest,
    PendingSnapshot,
    Snapshot,
)
from models.errors import GroupLost, ModelError, OutOfMemory, PlanError, TuningError, WeightsError
from models.phase import OnPhase, Phase, untold
from models.pixel_format import PixelFormat
from serve_app.config.model_settings import ModelSettings
from serve_app.config.placement import Placement
from serve_app.config.tracing_settings import TracingSettings
from serve_app.replica.rank_actor import LIFE, PHASES, PreparedRun, RankActor, RankProcess, RankStart

_START_S = 1800.0
"""Timeout, in seconds, for loading the weights and for each step of the warm-up, which may compile."""

# an option that Ray's types do not know
_RANK: Any = ray.remote(concurrency_groups={PHASES: 1, LIFE: 1})(RankActor)  # type: ignore[call-overload]

_RANK_LOCAL_ERRORS = (OutOfMemory, PlanError, TuningError, WeightsError)
"""Errors that may occur on one rank alone and count as an error of the whole group."""


@dataclass(slots=True, eq=False)
class GroupRun:
    """A run of the group, identified on every rank by its number. Implements ``Generation``."""

    number: int
    request: GenerationRequest
    fragment: int
    total_steps: int
    notes: tuple[str, ...]
    step: int = 0


class RankGroup:
    """Implements ``models.engine.Engine``: sends every call to all ranks, so that they stay in lockstep.

    A run is abandoned by making no further call for it. An error in ``prepare`` is raised on all ranks, and
    the group stays usable. A rank that dies, fails alone or times out ends the group: all its processes are
    killed and ``GroupLost`` is raised. A ``ModelError`` in a step or a decode is raised unchanged, but also
    ends the group, because the ranks are no longer in lockstep.
    """

    def __init__(
        self,
        model: ModelSettings,
        settings: EngineSettings,
        placement: Placement,
        bundles: PlacementGroup,
        timeout_s: float,
        tracing: TracingSettings | None = None,
    ) -> None:
        """Start the ranks in bundles 1, 2 … of the placement group, all on this node, and load the model; of
        a group on several nodes, those of each node in the one bundle there.

        Until ``watch`` is called, ``timeout_s`` limits only the ranks' waits for each other. Raises
        ``ModelError`` of the engine's factory, or ``GroupLost``.
        """
        self._timeout_s = timeout_s
        self._call_timeout_s = _START_S
        self._numbers = count()
        self._prepared: set[int] = set()
        self._ended = False
        self.evictions: Mapping[str, int] = {}
        """Those of rank 0, as of the run that was prepared last."""
        self.traceparent: str | None = None
        """The span that those of the runs prepared next are below; None: they are not traced."""
        self._processes: list[psutil.Process] = []

        def start(number: int) -> RankStart:
            return RankStart(
                number,
                model.plan,
                model.engine,
                settings,
                timeout_s,
                model.video_encoder,
                is_on_several_nodes=placement.nodes > 1,
                tracing=tracing,
                part=f"model-{model.name}",
            )

        self._ranks: list[Any] = [
            _RANK.options(
                num_cpus=placement.cpus,
                num_gpus=placement.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(bundles, placement.bundle_of(number)),
            ).remote(start(number))
            for number in range(placement.ranks)
        ]
        self._asked: dict[int, ObjectRef[RankProcess]] = {}
        """Of each rank on another node the last call that asks whether it lives."""
        try:
            self.processes: Sequence[RankProcess] = self._all("process")
            here = ray.get_runtime_context().get_node_id()
            self._processes = [psutil.Process(rank.pid) for rank in self.processes if rank.node == here]
            elsewhere = [number for number, rank in enumerate(self.processes) if rank.node != here]
            self._asked = {number: self._ask(number) for number in elsewhere}
            (store,) = self._answers([self._ranks[0].open_store.remote()])
            self._all("load", *store)
        except BaseException:
            self.end()
            raise

    def watch(self) -> None:
        """Apply ``timeout_s`` to every call from now on; a rank that exceeds it is lost."""
        self._call_timeout_s = self._timeout_s

    @property
    def is_whole(self) -> bool:
        """True while every rank's process is alive and the group has not ended."""
        if self._ended or not all(_is_alive(process) for process in self._processes):
            return False
        for number, asked in self._asked.items():
            if not ray.wait([asked], timeout=0)[0]:
                continue  # an answer may take a while, and one that never comes is an error in the end
            if _has_failed(asked):
                return False
            self._asked[number] = self._ask(number)
        return True

    def _ask(self, number: int) -> ObjectRef[RankProcess]:
        asked: ObjectRef[RankProcess]
        asked = self._ranks[number].process.options(concurrency_group=LIFE).remote()
        return asked

    def end(self) -> None:
        """Kill every rank's process: a hung or stopped one would not react to an actor call. One on another
        node that does not react is killed there by the raylet, which waits a few seconds for it.
        """
        self._ended = True
        for rank in self._ranks:
            ray.kill(rank)
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def prepare(
        self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
    ) -> GroupRun:
        """Prepare a run on every rank, and tell the phases of rank 0. Raises ``ModelError`` or
        ``GroupLost``.
        """
        before = None if after is None else self._checked(after)
        self._prepared &= set() if before is None else {before.number}
        number = next(self._numbers)
        shared = ray.put(request)  # once, however many ranks read its pictures
        follows = None if before is None else before.number
        preparing = [rank.prepare.remote(number, shared, follows, self.traceparent) for rank in self._ranks]
        others = preparing[1:]
        while (phase := self._next_phase(number, others)) is not None:
            on_phase(phase)
        first: PreparedRun = self._answers(preparing)[0]
        self._prepared.add(number)
        self.evictions = first.evictions
        fragment = 0 if before is None else before.fragment + 1
        return GroupRun(number, request, fragment, first.total_steps, first.notes)

    def denoise_step(self, generation: Generation) -> None:
        """Execute the next denoise step on every rank. Raises ``ModelError`` or ``GroupLost``."""
        run = self._checked(generation)
        if run.step == run.total_steps:
            raise ModelError(f"All {run.total_steps} steps of this run are done.")
        with self._lockstep():
            self._all("denoise_step", run.number)
        run.step += 1

    def cut_short(self, generation: Generation) -> None:
        """End the denoising on every rank. Raises ``ModelError`` or ``GroupLost``."""
        run = self._checked(generation)
        self._all("cut_short", run.number)
        run.total_steps = run.step

    def snapshot(self, generation: Generation) -> PendingSnapshot | None:
        """Return the state of a run, as rank 0 has it; here it is there at once, and the call waits for it.

        Raises ``ModelError`` or ``GroupLost``.
        """
        run = self._checked(generation)
        snapshot: Snapshot | None = self._answers([self._ranks[0].snapshot.remote(run.number)])[0]
        return None if snapshot is None else lambda: snapshot

    def restore(self, generation: Generation, snapshot: Snapshot) -> None:
        """Put a prepared run at a snapshot on every rank. Raises ``ModelError`` or ``GroupLost``."""
        run = self._checked(generation)
        self._all("restore", run.number, ray.put(snapshot))
        run.step = snapshot.step

    def decode(
        self, generation: Generation, pixel_format: PixelFormat = PixelFormat.RGB24
    ) -> Iterator[Frames]:
        """Decode a finished run; closing or dropping the iterator ends the decode early.

        Raises ``ModelError`` or ``GroupLost``.
        """
        run = self._checked(generation)
        if run.step < run.total_steps:
            raise ModelError(f"Only {run.step} of {run.total_steps} steps of this run are done.")
        return self._frames(run, pixel_format)

    def preview(self, generation: Generation) -> Frames:
        """Return the preview of rank 0. Raises ``ModelError`` or ``GroupLost``."""
        run = self._checked(generation)
        preview: Frames = self._all("preview", run.number)[0]
        return preview

    def _frames(self, run: GroupRun, pixel_format: PixelFormat) -> Iterator[Frames]:
        first, *others = self._ranks
        with self._lockstep():
            self._all("begin_decode", run.number, pixel_format)
            following = [rank.follow_decode.remote() for rank in others]
            ahead = first.next_frames.remote()
            try:
                while (frames := self._answers([ahead], following)[0]) is not None:
                    ahead = first.next_frames.remote()  # the ranks continue while these frames are written
                    yield frames
                self._answers(following)
            except GeneratorExit:
                self._answers([first.leave_decode.remote(), *following])
                raise

    def _next_phase(self, number: int, others: list[ObjectRef[PreparedRun]]) -> Phase | None:
        """Wait for the next phase of rank 0; return None at the end of its ``prepare``, or once one of the
        ``others`` has failed. Those that have prepared leave the list.
        """
        if self._ended:
            return None
        phase = self._ranks[0].next_phase.options(concurrency_group=PHASES).remote(number)
        while True:
            done, _ = ray.wait([phase, *others], timeout=self._call_timeout_s)
            if not done:
                self._fail_late()
            if phase in done:
                told: Phase | None = self._answer(phase)
                return told
            if _has_failed(done[0]):  # its error is an answer like any other
                return None
            others.remove(done[0])

    @contextmanager
    def _lockstep(self) -> Iterator[None]:
        """End the group on a ``ModelError`` inside: the other ranks may wait for the failed one for ever."""
        try:
            yield
        except ModelError:
            self.end()
            raise

    def _all(self, method: str, *arguments: object) -> list[Any]:
        """Call ``method`` on every rank; return the answers in rank order."""
        return self._answers([getattr(rank, method).remote(*arguments) for rank in self._ranks])

    def _answers(
        self, awaited: Sequence[ObjectRef[Any]], watched: Sequence[ObjectRef[Any]] = ()
    ) -> list[Any]:
        """Return the answers of ``awaited``; an error of ``watched``, which need not end, is raised as well.

        A ``ModelError`` is raised once all ranks have one: one that a rank raises alone ends the group,
        except the rank-local errors. Raises ``ModelError`` or ``GroupLost``.
        """
        if self._ended:
            raise GroupLost("This group of ranks has ended.")
        deadline = time.monotonic() + self._call_timeout_s
        missing, answers = [*awaited, *watched], dict[ObjectRef[Any], Any]()
        errors: list[ModelError] = []
        while set(missing).intersection(awaited):
            done, missing = ray.wait(missing, timeout=max(deadline - time.monotonic(), 0.0))
            if not done:
                break
            try:
                answers[done[0]] = self._answer(done[0])
            except _RANK_LOCAL_ERRORS:
                raise
            except ModelError as error:
                errors.append(error)
                deadline = min(deadline, time.monotonic() + self._timeout_s)
        if errors and len(errors) < len(awaited):
            self._fail_group(f"A rank failed alone: {errors[0]}")
        if errors:
            raise errors[0]
        if not answers.keys() >= set(awaited):
            self._fail_late()
        return [answers[reference] for reference in awaited]

    def _answer(self, reference: ObjectRef[Any]) -> Any:
        """Return the answer of a finished call. Raises ``ModelError``; ``GroupLost`` for any other error."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, ModelError):
                raise error.cause from None
            self._fail_group(f"A rank failed: {error.cause!r}", error)
        except RayError as error:
            self._fail_group(f"A rank is gone: {type(error).__name__}.", error)

    def _fail_late(self) -> NoReturn:
        self._fail_group(f"A rank has not answered within {self._call_timeout_s:g} s.")

    def _fail_group(self, why: str, cause: Exception | None = None) -> NoReturn:
        self.end()
        raise GroupLost(why) from cause

    def _checked(self, generation: Generation) -> GroupRun:
        if not isinstance(generation, GroupRun) or generation.number not in self._prepared:
            raise ModelError("This run was prepared by another engine, or another run has begun since.")
        return generation


def _has_failed(finished: ObjectRef[Any]) -> bool:
    try:
        ray.get(finished)
    except RayError:
        return True
    return False


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
