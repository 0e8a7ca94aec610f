"""The checkpoints of a run: what a later attempt at its task goes on from when this one is lost or left."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import cached_property
from typing import Protocol

from models.engine import Engine, Generation, GenerationRequest, PendingSnapshot, Snapshot
from models.errors import LoraFault, ModelError
from serve_app.errors import ServiceError
from serve_app.files.artifacts import Artifacts
from serve_app.replica.checkpoint import Checkpoint, CheckpointError, CheckpointName
from serve_app.tasks.task import Task

_LEAST_RATIO = 100
"""Seconds of a run for each second that its engine spends on checkpoints: they cost 1 % at most."""
_LEAVE_S = 10.0
"""Longest wait, in seconds, for the last checkpoint of a run that is handed back."""
_NOT_KEPT = (OSError, ServiceError, LoraFault, CheckpointError)
_logger = logging.getLogger("ray.serve")

Fingerprint = Callable[[GenerationRequest], str]


class Checkpoints(Protocol):
    """The checkpoints of one run; the engine's thread calls the methods."""

    def begin(self, request: GenerationRequest) -> Mapping[int, Snapshot]:
        """Take the run's request; return the snapshots by fragment that the run can go on from."""

    def stepped(self, run: Generation) -> None:
        """Keep the run if that is due. Raises ``EngineLost``."""

    def leave(self, run: Generation) -> None:
        """Keep a run that is handed back, and wait until that is done. Raises ``EngineLost``."""

    def drop(self) -> None:
        """Delete all checkpoints of the task, which has ended. Any thread may call."""


class NoCheckpoints(Checkpoints):
    """Keeps none."""

    def begin(self, request: GenerationRequest) -> Mapping[int, Snapshot]:
        """Find nothing."""
        return {}

    def stepped(self, run: Generation) -> None:
        """Keep nothing."""

    def leave(self, run: Generation) -> None:
        """Keep nothing."""

    def drop(self) -> None:
        """Leave nothing behind."""


class RunCheckpoints(Checkpoints):
    """Keeps the state of a run every ``every_s`` seconds: so none of a shorter one.

    The engine's thread begins the copy to the host and leaves the rest to ``keeper``, a thread that writes
    one file after the other. Of each fragment the newest checkpoint of this attempt stays; of a finished one,
    which a later attempt decodes again, that after its last step. A failure costs checkpoints, not the run.
    ``clock``: returns seconds.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        artifacts: Artifacts,
        keeper: Executor,
        fingerprint: Fingerprint,
        every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._task = task
        self._artifacts = artifacts
        self._keeper = keeper
        self._make_fingerprint = fingerprint
        self._every_s = every_s
        self._clock = clock
        self._due_at = clock() + every_s
        self._request: GenerationRequest | None = None
        self._ends: dict[int, PendingSnapshot] = {}
        """Finished fragments that are not in a file yet."""
        self._written: dict[int, CheckpointName] = {}
        self._writing: Future[None] | None = None
        self._kept_at: tuple[int, int] | None = None
        """Fragment and step of the newest checkpoint."""

    def begin(self, request: GenerationRequest) -> Mapping[int, Snapshot]:
        """Take the run's request; return the snapshots by fragment that the run can go on from."""
        self._request = request
        found: dict[int, Snapshot] = {}
        # The first attempt has none to look for.
        names = self._names() if self._task.attempt > 1 else ()
        for fragment in range(request.num_fragments):
            candidates = [name for name in names if name.fragment == fragment]
            candidates.sort(key=lambda name: (name.step, name.attempt), reverse=True)
            snapshot = next(filter(None, map(self._read, candidates)), None)
            if snapshot is None:
                break
            found[fragment] = snapshot
            self._kept_at = fragment, snapshot.step
            if snapshot.step < request.steps:
                break
        return found

    def stepped(self, run: Generation) -> None:
        """Keep the run if that is due. Raises ``EngineLost``."""
        if run.step == run.total_steps and run.fragment + 1 < run.request.num_fragments:
            self._hold_end(run)
        is_free = self._writing is None or self._writing.done()
        if is_free and self._clock() >= self._due_at:
            self._keep(run)

    def leave(self, run: Generation) -> None:
        """Keep a run that is handed back, and wait until that is done. Raises ``EngineLost``."""
        if run.step == 0 or self._kept_at == (run.fragment, run.step):
            return
        self._keep(run)
        if self._writing is not None:
            with suppress(TimeoutError):
                self._writing.result(timeout=_LEAVE_S)

    def drop(self) -> None:
        """Delete all checkpoints of the task, which has ended, once the last one is written."""
        if self._written or self._writing is not None or self._task.attempt > 1:
            self._keeper.submit(self._drop)

    def _hold_end(self, run: Generation) -> None:
        if (pending := self._snapshot(run)) is not None:
            self._ends[run.fragment] = pending

    def _keep(self, run: Generation) -> None:
        began = self._clock()
        pending = self._ends.get(run.fragment) or self._snapshot(run)
        self._due_at = self._clock() + max(self._every_s, _LEAST_RATIO * (self._clock() - began))
        if pending is not None:
            self._kept_at = run.fragment, run.step
            self._writing = self._keeper.submit(self._write, {**self._ends, run.fragment: pending})

    def _snapshot(self, run: Generation) -> PendingSnapshot | None:
        try:
            return self._engine.snapshot(run)
        except ModelError:
            _logger.warning("task %s: there is no checkpoint", self._task.uid, exc_info=True)
            return None

    @cached_property
    def _fingerprint(self) -> str:
        assert self._request is not None, "call begin first"
        return self._make_fingerprint(self._request)

    def _write(self, snapshots: Mapping[int, PendingSnapshot]) -> None:
        uid = self._task.uid
        try:
            for fragment, pending in snapshots.items():
                snapshot = pending()
                name = CheckpointName(self._task.attempt, fragment, snapshot.step)
                data = Checkpoint(self._fingerprint, snapshot).to_bytes()
                self._artifacts.put_checkpoint(uid, str(name), data)
                self._ends.pop(fragment, None)
                older = self._written.get(fragment, name)
                self._written[fragment] = name
                if older != name:
                    self._artifacts.delete_checkpoint(uid, str(older))
        except _NOT_KEPT:
            _logger.warning("task %s: a checkpoint was not kept", uid, exc_info=True)

    def _names(self) -> Sequence[CheckpointName]:
        try:
            names = self._artifacts.checkpoints(self._task.uid)
        except _NOT_KEPT:
            _logger.warning("task %s: its checkpoints were not listed", self._task.uid, exc_info=True)
            return ()
        return [name for name in map(CheckpointName.of, names) if name is not None]

    def _read(self, name: CheckpointName) -> Snapshot | None:
        """Return the snapshot of a checkpoint, None for one that is not whole, or is of another run."""
        try:
            found = Checkpoint.from_bytes(self._artifacts.read_checkpoint(self._task.uid, str(name)))
            if found.fingerprint == self._fingerprint:
                return found.snapshot
        except _NOT_KEPT:
            _logger.warning("task %s: the checkpoint %s is of no use", self._task.uid, name, exc_info=True)
        return None

    def _drop(self) -> None:
        try:
            self._artifacts.delete_checkpoints(self._task.uid)
        except _NOT_KEPT:  # the janitor looks for them as well
            _logger.warning("task %s: its checkpoints were not deleted", self._task.uid, exc_info=True)
