"""A replica's engine over several devices: rank actors, one for each, that take every step together."""

import time
from collections.abc import Iterator, Sequence
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

from models.engine import EngineSettings, Frames, Generation, GenerationRequest
from models.errors import GroupLost, ModelError, OutOfMemory, PlanError, TuningError, WeightsError
from serve_app.config.model_settings import ModelSettings
from serve_app.config.placement import Placement
from serve_app.replica.rank_actor import RankActor, RankProcess, RankStart

_START_S = 1800.0
"""Longest time for a rank to load its weights, or for a step of the warm-up, which may compile."""

_OF_ONE_RANK = (OutOfMemory, PlanError, TuningError, WeightsError)
"""Errors that one rank may meet alone and that hold for the whole group."""


@dataclass(slots=True, eq=False)
class GroupRun:
    """A run that every rank knows by its number. Implements ``Generation``."""

    number: int
    request: GenerationRequest
    fragment: int
    total_steps: int
    step: int = 0


class RankGroup:
    """Implements ``models.engine.Engine``: commands all ranks alike, so that none is ever in another step.

    A run is left by not commanding it further. What a rank raises in ``prepare``, all raise, and the group
    stays usable. A rank that dies, or fails alone, or does not answer in time ends the group: all its
    processes are killed and ``GroupLost`` is raised. A ``ModelError`` in a step or a decode is raised as it
    is, but the ranks are out of step by then, so that the group has ended too.
    """

    def __init__(
        self,
        model: ModelSettings,
        settings: EngineSettings,
        placement: Placement,
        bundles: PlacementGroup,
        timeout_s: float,
    ) -> None:
        """Start the ranks in bundles 1, 2 … and load the model; raises what the engine's factory raises.

        All bundles are on this node. Until ``watch`` is called, ``timeout_s`` binds only what the ranks wait
        for from each other.
        """
        self._timeout_s = timeout_s
        self._patience_s = _START_S
        self._numbers = count()
        self._known: set[int] = set()
        self._ended = False
        self._processes: list[psutil.Process] = []
        self._ranks: list[Any] = [
            ray.remote(RankActor)
            .options(
                num_cpus=placement.cpus,
                num_gpus=placement.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(bundles, number + 1),
            )
            .remote(RankStart(number, model.plan, model.engine, settings, timeout_s))
            for number in range(placement.ranks)
        ]
        try:
            self.processes: Sequence[RankProcess] = self._all("process")
            self._processes = [psutil.Process(process.pid) for process in self.processes]
            (port,) = self._answers([self._ranks[0].open_store.remote()])
            self._all("load", port)
        except BaseException:
            self.end()
            raise

    def watch(self) -> None:
        """From now on, a rank that takes longer than ``timeout_s`` over one call is lost."""
        self._patience_s = self._timeout_s

    @property
    def is_whole(self) -> bool:
        """True while every rank's process lives and the group has not ended."""
        return not self._ended and all(_lives(process) for process in self._processes)

    def end(self) -> None:
        """Kill every rank. One that hangs, or is stopped, would not hear of it in any other way."""
        self._ended = True
        for rank in self._ranks:
            ray.kill(rank)
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def prepare(self, request: GenerationRequest, after: Generation | None = None) -> GroupRun:
        """Prepare a run on every rank."""
        before = None if after is None else self._own(after)
        self._known &= set() if before is None else {before.number}
        number = next(self._numbers)
        shared = ray.put(request)  # once, however many ranks read its pictures
        steps, *_ = self._all("prepare", number, shared, None if before is None else before.number)
        self._known.add(number)
        return GroupRun(number, request, 0 if before is None else before.fragment + 1, steps)

    def denoise_step(self, generation: Generation) -> None:
        """Let every rank do the next step."""
        run = self._own(generation)
        if run.step == run.total_steps:
            raise ModelError(f"All {run.total_steps} steps of this run are done.")
        with self._lockstep():
            self._all("denoise_step", run.number)
        run.step += 1

    def decode(self, generation: Generation) -> Iterator[Frames]:
        """As the contract says. A decode is left as its iterator is closed or dropped."""
        run = self._own(generation)
        if run.step < run.total_steps:
            raise ModelError(f"Only {run.step} of {run.total_steps} steps of this run are done.")
        return self._frames(run)

    def preview(self, generation: Generation) -> Frames:
        """The preview, as rank 0 makes it."""
        run = self._own(generation)
        preview: Frames = self._all("preview", run.number)[0]
        return preview

    def _frames(self, run: GroupRun) -> Iterator[Frames]:
        first, *others = self._ranks
        with self._lockstep():
            self._all("begin_decode", run.number)
            following = [rank.follow_decode.remote() for rank in others]
            ahead = first.next_frames.remote()
            try:
                while (frames := self._answers([ahead], following)[0]) is not None:
                    ahead = first.next_frames.remote()  # the ranks go on while these are written
                    yield frames
                self._answers(following)
            except GeneratorExit:
                self._answers([first.leave_decode.remote(), *following])
                raise

    @contextmanager
    def _lockstep(self) -> Iterator[None]:
        """Around what all ranks do in step: whichever of them failed, the others may wait for it for ever."""
        try:
            yield
        except ModelError:
            self.end()
            raise

    def _all(self, method: str, *arguments: object) -> list[Any]:
        """Command every rank; their answers, in order."""
        return self._answers([getattr(rank, method).remote(*arguments) for rank in self._ranks])

    def _answers(
        self, awaited: Sequence[ObjectRef[Any]], watched: Sequence[ObjectRef[Any]] = ()
    ) -> list[Any]:
        """The answers of ``awaited``; an error among ``watched``, which go on meanwhile, counts as well.

        Most errors of the model are raised once all have them: of one rank alone, they are that rank's fault.
        """
        if self._ended:
            raise GroupLost("This group of ranks has ended.")
        deadline = time.monotonic() + self._patience_s
        missing, answers = [*awaited, *watched], dict[ObjectRef[Any], Any]()
        errors: list[ModelError] = []
        while set(missing).intersection(awaited):
            done, missing = ray.wait(missing, timeout=max(deadline - time.monotonic(), 0.0))
            if not done:
                break
            try:
                answers[done[0]] = self._answer(done[0])
            except _OF_ONE_RANK:
                raise
            except ModelError as error:
                errors.append(error)
                deadline = min(deadline, time.monotonic() + self._timeout_s)
        if errors and len(errors) < len(awaited):
            self._lose(f"A rank failed alone: {errors[0]}")
        if errors:
            raise errors[0]
        if not answers.keys() >= set(awaited):
            self._lose(f"A rank has not answered within {self._patience_s:g} s.")
        return [answers[reference] for reference in awaited]

    def _answer(self, reference: ObjectRef[Any]) -> Any:
        """The answer of a call that has ended. Raises ``ModelError``, and ``GroupLost`` for all else."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, ModelError):
                raise error.cause from None
            self._lose(f"A rank failed: {error.cause!r}", error)
        except RayError as error:
            self._lose(f"A rank is gone: {type(error).__name__}.", error)

    def _lose(self, why: str, cause: Exception | None = None) -> NoReturn:
        self.end()
        raise GroupLost(why) from cause

    def _own(self, generation: Generation) -> GroupRun:
        if not isinstance(generation, GroupRun) or generation.number not in self._known:
            raise ModelError("This run was prepared by another engine, or another run has begun since.")
        return generation


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
