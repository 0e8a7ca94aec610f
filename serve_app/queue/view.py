"""A cache of queue snapshots, shared by many requests."""

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from serve_app.files.free_disk import FreeDisk
from serve_app.queue.forecast import Forecaster, Speed
from serve_app.queue.removal import Removal
from serve_app.queue.snapshot import ModelLine, QueueSnapshot
from serve_app.store.fleet import Fleet
from serve_app.store.task_store import TaskStore
from serve_app.tasks.fair_share import FairClock, Shares
from serve_app.tasks.pauses import Pauses
from serve_app.tasks.replica import Health, Replica
from serve_app.tasks.task import QueuedTask, Task

_MIN_AGE_S = 0.5
_COST_SHARE = 20
"""A snapshot that took t seconds is served for at least 20 t, so snapshots cost at most 5 % of the time."""
_STALE_S = 5.0
_PAUSE_S = 0.01
"""Pause between two pages of a long queue, several times the time to read a page: requests go first."""
_SLICE = 200
"""Tasks that the forecast simulates between two yields to the event loop, about a millisecond."""


class QueueView:
    """A cached snapshot, renewed at most every half second, for any number of requests.

    A due snapshot is taken in the background, so requests do not wait for it; a view that has been unused for
    seconds takes a snapshot before it answers.
    """

    def __init__(
        self,
        store: TaskStore,
        fleet: Fleet,
        shares: Shares | None = None,
        *,
        seen_within_s: float,
        disk: FreeDisk | None = None,
        removal: Removal | None = None,
    ) -> None:
        """Create the view; ``shares`` must equal the coordinator's, as must what ``disk`` has to have left.

        ``seen_within_s``: seconds without a heartbeat after which a replica no longer counts; longer than the
        heartbeat interval. ``removal``: without it no model is taken for removed.
        """
        self._store = store
        self._fleet = fleet
        self._shares = shares or {}
        self._seen_within_s = seen_within_s
        self._disk = disk
        self._removal = removal
        self._snapshot: QueueSnapshot | None = None
        self._cost_s = 0.0
        self._renewal: asyncio.Task[QueueSnapshot] | None = None

    async def recent(self) -> QueueSnapshot:
        """Return a recent snapshot of the queue."""
        age = time.monotonic() - self._snapshot.taken_at if self._snapshot is not None else math.inf
        due = max(_MIN_AGE_S, _COST_SHARE * self._cost_s)
        if self._snapshot is not None and age < due:
            return self._snapshot
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self.fresh())
            self._renewal.add_done_callback(_retrieve_error)
        if self._snapshot is not None and age < due + _STALE_S:
            return self._snapshot
        # Shielded: a client that disconnects must not cancel the snapshot that other requests wait for.
        return await asyncio.shield(self._renewal)

    async def fresh(self) -> QueueSnapshot:
        """Take and return a new snapshot of the queue."""
        began = time.monotonic()
        queue: list[QueuedTask] = []
        async for page in self._store.queue():
            if queue:
                await asyncio.sleep(_PAUSE_S)
            queue += page
        taken_at = time.monotonic()
        running = await self._store.running()
        replicas = await self._replicas(running)
        pauses = await self._store.pauses()
        lines = await self._lines(queue, running, replicas, pauses)
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
            pauses,
            await self.is_disk_low(),
            {} if self._removal is None else await self._removal.ends({task.model for task in queue}),
        )
        self._cost_s = time.monotonic() - began
        return self._snapshot

    async def is_disk_low(self) -> bool:
        """Return True while too little disk is left to begin a task."""
        return self._disk is not None and await self._disk.is_low()

    async def has_working_replica(self) -> bool:
        """Return True if a replica that takes tasks has a recent heartbeat."""
        known = await self._fleet.replicas(seen_within_s=self._seen_within_s)
        return any(replica.works for replica in known)

    async def _replicas(self, running: Sequence[Task]) -> Sequence[Replica]:
        """Return the replicas with BUSY and DRAINING set from the store, ahead of their heartbeats."""
        known = await self._fleet.replicas(seen_within_s=self._seen_within_s)
        draining = await self._store.is_draining()
        busy = {task.runner for task in running}
        return [
            _with_current_health(replica, busy=replica.replica_id in busy, draining=draining)
            for replica in known
        ]

    async def _lines(
        self,
        queue: Sequence[QueuedTask],
        running: Sequence[Task],
        replicas: Sequence[Replica],
        pauses: Pauses,
    ) -> Mapping[str, ModelLine]:
        waiting: dict[str, list[QueuedTask]] = defaultdict(list)
        held: Counter[str] = Counter()
        for task in queue:
            if pauses.hold(task.owner, task.model):
                held[task.model] += 1
            else:
                waiting[task.model].append(task)
        speeds, clocks = await self._speeds(), await self._store.clocks()
        scales = await self._fleet.scales()
        busy = Counter(task.owner for task in running)
        seen = {*(task.model for task in running), *(known.model for known in replicas)}
        names = {*waiting, *held, *speeds, *scales, *seen}
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
                len(waiting[name]) + held[name],
                len(runs),
                working,
                [replica for replica in known if not replica.works],
                len(runs) - len(staying),
                speed,
                forecaster.forecast(),
                scales.get(name),
                held[name],
            )
        return lines

    async def _speeds(self) -> Mapping[str, Speed]:
        sizes: dict[str, dict[int, float]] = defaultdict(dict)
        for (model, tokens), rate in (await self._fleet.shape_rates()).items():
            sizes[model][tokens] = rate
        return {model: Speed(rate, sizes[model]) for model, rate in (await self._fleet.rates()).items()}


def _with_current_health(replica: Replica, *, busy: bool, draining: bool) -> Replica:
    if not replica.works or not (busy or draining):
        return replica
    return replace(replica, health=Health.DRAINING if draining else Health.BUSY)


def _staying(runs: Sequence[Task], replicas: Sequence[Replica]) -> Sequence[Task]:
    """Return the runs that are not on a draining replica."""
    draining = {replica.replica_id for replica in replicas if replica.health is Health.DRAINING}
    return [task for task in runs if task.runner not in draining]


def _seconds_left(task: Task, speed: Speed) -> float:
    return speed.seconds((1 - task.progress) * task.work, task.tokens) or 0.0


def _retrieve_error(renewal: asyncio.Task[QueueSnapshot]) -> None:
    # A waiting request gets the error; without one, the next request tries again.
    if not renewal.cancelled():
        renewal.exception()
