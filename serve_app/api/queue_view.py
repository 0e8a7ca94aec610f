"""Where a task stands in the queue and when it will be done: one look at the queue serves many requests."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.tasks.fleet import Fleet
from serve_app.tasks.store import TaskStore
from serve_app.tasks.task import QueuedTask, Replica, Scale, Task
from serve_app.tasks.transitions import Status

SEEN_WITHIN_S = 6.0
"""A replica not heard of for longer does not count: three missed heartbeats."""

_MIN_AGE_S = 0.5
_COST_SHARE = 20
"""A look that took t seconds is used for at least this many times t, so that looking costs 5 % at most."""
_STALE_S = 5.0
_PAUSE_S = 0.01
"""Between two pages of a long queue, several times what a page takes: requests go first."""
_RETRY_BOUNDS_S = (1, 600)
_RETRY_UNKNOWN_S = 10


@dataclass(frozen=True, slots=True)
class Place:
    """``position`` counts from 1 in the model's queue, None unless queued; ``eta_s`` is to the task's end."""

    position: int | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model's queue, runs and replicas. Work is in DiT tokens, ``rate`` in seconds per unit of it."""

    keys: Sequence[tuple[int, int]]
    """(−priority, seq) of the queued tasks, in the order they will be taken."""
    work_before: Sequence[float]
    """Work queued before each of them; one longer than ``keys``, the last being all of it."""
    running_work: Sequence[float]
    """What is left of each run."""
    replicas: Sequence[Replica]
    rate: float | None
    scale: Scale | None = None
    """What Serve means to have of a model that scales."""

    def place(self, task: Task) -> Place:
        """A task that came after this look stands where its priority and arrival will put it."""
        if task.status is Status.RUNNING:
            return Place(None, self._seconds((1 - task.progress) * task.work))
        if task.status is not Status.QUEUED:
            return Place(None, None)
        index = bisect_left(self.keys, (-task.priority, task.seq))
        if not self.replicas:
            return Place(index + 1, None)
        ahead = sum(self.running_work) + self.work_before[index]
        return Place(index + 1, self._seconds(ahead / len(self.replicas) + task.work))

    @property
    def awaits_replica(self) -> str | None:
        """What to tell who waits for the first replica of a model that scales; None when there is one."""
        if self.replicas or self.scale is None:
            return None
        if self.scale.failing:
            return "has no replica up, and the last attempts to start one failed; it is tried again"
        return "has no replica up and is being started"

    @property
    def first_free_s(self) -> float | None:
        """Seconds until a run ends and a queued task may start, if that can be told."""
        return self._seconds(min(self.running_work)) if self.running_work else None

    def _seconds(self, work: float) -> float | None:
        return None if self.rate is None else work * self.rate


_EMPTY = ModelLine((), (0.0,), (), (), None)


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queue, the runs and the replicas as they stood at one moment."""

    lines: Mapping[str, ModelLine]
    running: Sequence[Task]
    replicas: Sequence[Replica]
    queued: int
    following: str | None
    """Id of the queued task that is taken next."""

    def line(self, model: str) -> ModelLine:
        """The model's line; an empty one if nothing is known of it."""
        return self.lines.get(model, _EMPTY)

    def has_free_replica(self, model: str) -> bool:
        """Whether a task submitted now would wait for no other."""
        line = self.line(model)
        # One that scales from zero starts a replica for the first task.
        from_zero = line.scale is not None and not line.scale.failing
        return len(line.running_work) + len(line.keys) < max(len(line.replicas), int(from_zero))

    @property
    def current(self) -> str | None:
        """Id of the task that has run longest; before any runs, of the one that is about to."""
        return self.running[0].id if self.running else self.following

    @property
    def is_idle(self) -> bool:
        """Whether any replica can take work."""
        return any(self.has_free_replica(model) for model in self.lines)

    @property
    def retry_after_s(self) -> int:
        """When a refused submit is worth another try: when the next run is expected to end."""
        soonest = min(
            (free_s for line in self.lines.values() if (free_s := line.first_free_s) is not None),
            default=_RETRY_UNKNOWN_S,
        )
        low, high = _RETRY_BOUNDS_S
        return max(low, min(high, math.ceil(soonest)))


class QueueView:
    """Looks at the queue at most every half second, however many requests ask.

    A look that is due is taken in the background, so that no request waits for it; only a view that
    nobody used for seconds is renewed before it is answered from.
    """

    def __init__(self, store: TaskStore, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._snapshot: QueueSnapshot | None = None
        self._taken_at = -math.inf
        self._cost_s = 0.0
        self._renewal: asyncio.Task[QueueSnapshot] | None = None

    async def recent(self) -> QueueSnapshot:
        """The queue as it stood a moment ago."""
        age = time.monotonic() - self._taken_at
        due = max(_MIN_AGE_S, _COST_SHARE * self._cost_s)
        if self._snapshot is not None and age < due:
            return self._snapshot
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self.fresh())
            self._renewal.add_done_callback(_retrieve)
        if self._snapshot is not None and age < due + _STALE_S:
            return self._snapshot
        # Shielded: a client that hangs up must not take the look away from the others that wait for it.
        return await asyncio.shield(self._renewal)

    async def fresh(self) -> QueueSnapshot:
        """The queue as it stands now."""
        began = time.monotonic()
        waiting: dict[str, _Waiting] = defaultdict(_Waiting)
        following: str | None = None
        async for page in self._store.queue():
            if following is None:
                following = page[0].id
            else:
                await asyncio.sleep(_PAUSE_S)
            for task in page:
                waiting[task.model].add(task)
        running = await self._store.running()
        replicas = await self._fleet.replicas(seen_within_s=SEEN_WITHIN_S)
        rates, scales = await self._fleet.rates(), await self._fleet.scales()
        self._snapshot = _snapshot(waiting, following, running, replicas, rates, scales)
        self._taken_at = time.monotonic()
        self._cost_s = self._taken_at - began
        return self._snapshot


class _Waiting:
    """One model's queued tasks, added in their order."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, int]] = []
        self.work_before = [0.0]

    def add(self, task: QueuedTask) -> None:
        self.keys.append((-task.priority, task.seq))
        self.work_before.append(self.work_before[-1] + task.work)


def _snapshot(
    waiting: Mapping[str, _Waiting],
    following: str | None,
    running: Sequence[Task],
    replicas: Sequence[Replica],
    rates: Mapping[str, float],
    scales: Mapping[str, Scale],
) -> QueueSnapshot:
    names = {
        *waiting,
        *rates,
        *scales,
        *(task.model for task in running),
        *(replica.model for replica in replicas),
    }
    nothing = _Waiting()
    lines = {
        name: ModelLine(
            keys=waiting.get(name, nothing).keys,
            work_before=waiting.get(name, nothing).work_before,
            running_work=[(1 - task.progress) * task.work for task in running if task.model == name],
            replicas=[replica for replica in replicas if replica.model == name],
            rate=rates.get(name),
            scale=scales.get(name),
        )
        for name in names
    }
    queued = sum(len(line.keys) for line in lines.values())
    return QueueSnapshot(lines, running, replicas, queued, following)


def _retrieve(renewal: asyncio.Task[QueueSnapshot]) -> None:
    # Who waits for it gets the error; if nobody does, the next request tries again.
    if not renewal.cancelled():
        renewal.exception()
