"""Where a task stands in the queue and when it will be done: one look at the queue serves many requests."""

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from serve_app.queue.forecast import Forecast, Forecaster, Speed
from serve_app.store.fleet import Fleet
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import Caller
from serve_app.tasks.fair_share import FairClock, Shares
from serve_app.tasks.task import Health, QueuedTask, Replica, Scale, Task
from serve_app.tasks.transitions import Status

SEEN_WITHIN_S = 6.0
"""A replica not heard of for longer does not count: three missed heartbeats."""

_MIN_AGE_S = 0.5
_COST_SHARE = 20
"""A look that took t seconds is used for at least this many times t, so that looking costs 5 % at most."""
_STALE_S = 5.0
_PAUSE_S = 0.01
"""Between two pages of a long queue, several times what a page takes: requests go first."""
_SLICE = 200
"""Tasks that are played through at a time, for the same reason: about a millisecond."""
_RETRY_BOUNDS_S = (1, 600)
_RETRY_UNKNOWN_S = 10


@dataclass(frozen=True, slots=True)
class Place:
    """``position`` counts from 1 in the model's queue, None unless queued; ``eta_s`` is to the task's end."""

    position: int | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model's queue, runs and replicas, as they stood at the look."""

    queued: int = 0
    running: int = 0
    replicas: Sequence[Replica] = ()
    """Those that take tasks."""
    others: Sequence[Replica] = ()
    """Those that start, drain or have come to a bad end."""
    leaving: int = 0
    """Of the runs, those on replicas that drain: no task is taken after them."""
    speed: Speed = field(default_factory=Speed)
    forecast: Forecast = field(default_factory=Forecast)
    scale: Scale | None = None
    """What Serve means to have of a model that scales."""

    @property
    def awaits_replica(self) -> str | None:
        """What to tell who waits for the first replica of a model that scales; None when there is one."""
        if self.replicas or self.scale is None:
            return None
        if self.scale.failing:
            return "has no replica up, and the last attempts to start one failed; it is tried again"
        return "has no replica up and is being started"

    def place(self, task: Task, *, age_s: float = 0.0) -> Place:
        """Where a task stands, ``age_s`` after the look."""
        if task.status is Status.RUNNING:
            return Place(None, self.speed.seconds((1 - task.progress) * task.work, task.tokens))
        if task.status is not Status.QUEUED:
            return Place(None, None)
        index = self.forecast.place(seq=task.seq, owner=task.owner, priority=task.priority)
        start_s, own_s = self.forecast.start_s(index), self.speed.seconds(task.work, task.tokens)
        if start_s is None or own_s is None:
            return Place(index + 1, None)
        return Place(index + 1, max(0.0, start_s - age_s) + own_s)


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queue, the runs and the replicas as they stood at one moment."""

    lines: Mapping[str, ModelLine]
    running: Sequence[Task]
    replicas: Sequence[Replica]
    queued: Mapping[str, int]
    """Tasks of each owner."""
    following: Mapping[str, str]
    """Id of each owner's task that is highest in priority, then oldest; in that order."""
    starts_s: Sequence[float]
    """Seconds until the queued tasks of all models start, ascending."""
    taken_at: float
    """Of the monotonic clock."""

    def line(self, model: str) -> ModelLine:
        """The model's line; an empty one if nothing is known of it."""
        return self.lines.get(model, _EMPTY)

    def place(self, task: Task) -> Place:
        """Where a task stands now."""
        return self.line(task.model).place(task, age_s=self._age_s)

    def has_free_replica(self, model: str) -> bool:
        """Whether a task submitted now would wait for no other."""
        line = self.line(model)
        # One that scales from zero starts a replica for the first task.
        from_zero = line.scale is not None and not line.scale.failing
        under_way = line.queued + line.running - line.leaving
        return under_way < max(len(line.replicas), int(from_zero))

    def may_start(self, caller: Caller) -> bool:
        """Whether one more task of the caller's may run beside those that it has."""
        under_way = self.queued.get(caller.name, 0) + sum(task.owner == caller.name for task in self.running)
        return caller.max_running is None or under_way < caller.max_running

    def running_of(self, caller: Caller) -> Sequence[Task]:
        """The running tasks that the caller sees, oldest first."""
        return [task for task in self.running if caller.sees(task.owner)]

    def current(self, caller: Caller) -> str | None:
        """Id of the caller's task that has run longest; before any runs, of the one that is about to."""
        for task in self.running_of(caller):
            return task.id
        return next((id_ for owner, id_ in self.following.items() if caller.sees(owner)), None)

    @property
    def pending(self) -> int:
        """How many tasks are queued."""
        return sum(self.queued.values())

    @property
    def is_idle(self) -> bool:
        """Whether any replica can take work."""
        return any(self.has_free_replica(model) for model in self.lines)

    def retry_after_s(self, max_queued: int) -> int:
        """Whole seconds until fewer than ``max_queued`` tasks are queued, as the queue stands."""
        return self._until_start(self.starts_s, self.pending - max_queued)

    def own_retry_after_s(self, caller: Caller) -> int:
        """The same for the caller's tasks and limit."""
        starts = [
            start for line in self.lines.values() for start in line.forecast.starts_of.get(caller.name, ())
        ]
        return self._until_start(sorted(starts), self.queued.get(caller.name, 0) - (caller.max_queued or 0))

    def _until_start(self, starts_s: Sequence[float], places: int) -> int:
        """Until so many places and one more are left by tasks that start."""
        index = max(0, places)
        if index < len(starts_s):
            start = starts_s[index]
        else:  # not known, or all have come since the look
            free = [line.forecast.next_start_s for line in self.lines.values()]
            start = min((free_s for free_s in free if free_s is not None), default=_RETRY_UNKNOWN_S)
        low, high = _RETRY_BOUNDS_S
        return max(low, min(high, math.ceil(start - self._age_s)))

    @property
    def _age_s(self) -> float:
        return max(0.0, time.monotonic() - self.taken_at)


_EMPTY = ModelLine()


class QueueView:
    """Looks at the queue at most every half second, however many requests ask.

    A look that is due is taken in the background, so that no request waits for it; only a view that
    nobody used for seconds is renewed before it is answered from.
    """

    def __init__(self, store: TaskStore, fleet: Fleet, shares: Shares | None = None) -> None:
        """``shares`` are what the coordinator's ledger has too."""
        self._store = store
        self._fleet = fleet
        self._shares = shares or {}
        self._snapshot: QueueSnapshot | None = None
        self._cost_s = 0.0
        self._renewal: asyncio.Task[QueueSnapshot] | None = None

    async def recent(self) -> QueueSnapshot:
        """The queue as it stood a moment ago."""
        age = time.monotonic() - self._snapshot.taken_at if self._snapshot is not None else math.inf
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
        queue: list[QueuedTask] = []
        async for page in self._store.queue():
            if queue:
                await asyncio.sleep(_PAUSE_S)
            queue += page
        taken_at = time.monotonic()
        running = await self._store.running()
        replicas = await self._replicas(running)
        lines = await self._lines(queue, running, replicas)
        following: dict[str, str] = {}
        for task in queue:
            following.setdefault(task.owner, task.id)
        self._snapshot = QueueSnapshot(
            lines,
            running,
            replicas,
            Counter(task.owner for task in queue),
            following,
            sorted(start for line in lines.values() for start in line.forecast.starts_s),
            taken_at,
        )
        self._cost_s = time.monotonic() - began
        return self._snapshot

    async def _replicas(self, running: Sequence[Task]) -> Sequence[Replica]:
        """As they are now: of what runs, and of a drain, the store knows more than they said last."""
        known = await self._fleet.replicas(seen_within_s=SEEN_WITHIN_S)
        draining = await self._store.is_draining()
        busy = {task.runner for task in running}
        return [_now(replica, busy=replica.replica_id in busy, draining=draining) for replica in known]

    async def _lines(
        self, queue: Sequence[QueuedTask], running: Sequence[Task], replicas: Sequence[Replica]
    ) -> Mapping[str, ModelLine]:
        waiting: dict[str, list[QueuedTask]] = defaultdict(list)
        for task in queue:
            waiting[task.model].append(task)
        speeds, clocks = await self._speeds(), await self._store.clocks()
        scales = await self._fleet.scales()
        busy = Counter(task.owner for task in running)
        seen = {*(task.model for task in running), *(known.model for known in replicas)}
        names = {*waiting, *speeds, *scales, *seen}
        lines = {}
        for name in names:
            speed, runs = speeds.get(name, Speed()), [task for task in running if task.model == name]
            known = [replica for replica in replicas if replica.model == name]
            working = [replica for replica in known if replica.works]
            staying = _staying(runs, known)
            forecaster = Forecaster(
                waiting[name],
                clocks.get(name, FairClock()),
                self._shares,
                speed=speed,
                replicas=len(working),
                runs=[(_seconds_left(task, speed), task.owner) for task in staying],
                running=busy,
            )
            while forecaster.advance(_SLICE):
                await asyncio.sleep(0)
            lines[name] = ModelLine(
                len(waiting[name]),
                len(runs),
                working,
                [replica for replica in known if not replica.works],
                len(runs) - len(staying),
                speed,
                forecaster.forecast(),
                scales.get(name),
            )
        return lines

    async def _speeds(self) -> Mapping[str, Speed]:
        sizes: dict[str, dict[int, float]] = defaultdict(dict)
        for (model, tokens), rate in (await self._fleet.shape_rates()).items():
            sizes[model][tokens] = rate
        return {model: Speed(rate, sizes[model]) for model, rate in (await self._fleet.rates()).items()}


def _now(replica: Replica, *, busy: bool, draining: bool) -> Replica:
    if not replica.works or not (busy or draining):
        return replica
    return replace(replica, health=Health.DRAINING if draining else Health.BUSY)


def _staying(runs: Sequence[Task], replicas: Sequence[Replica]) -> Sequence[Task]:
    """Those that are not on a replica that drains."""
    draining = {replica.replica_id for replica in replicas if replica.health is Health.DRAINING}
    return [task for task in runs if task.runner not in draining]


def _seconds_left(task: Task, speed: Speed) -> float:
    return speed.seconds((1 - task.progress) * task.work, task.tokens) or 0.0


def _retrieve(renewal: asyncio.Task[QueueSnapshot]) -> None:
    # Who waits for it gets the error; if nobody does, the next request tries again.
    if not renewal.cancelled():
        renewal.exception()
