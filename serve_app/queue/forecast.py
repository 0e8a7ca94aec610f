"""Forecasts when the queued tasks of one model start, by simulating the queue.

Tasks go in the coordinator's order (priority, fair share, age) to replicas, each of which takes the next task
when it is free. The simulation leaves out future tasks, cancels and replicas.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

from serve_app.tasks.fair_share import FairClock, Shares, share_of
from serve_app.tasks.task import QueuedTask

Key = tuple[int, float, int]
"""(−priority, the owner's virtual time, seq): sorts tasks in the order they are claimed."""

_NO_OWNER = ""
"""Owner of an idle replica; no API key has this name."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured speed of a model in seconds per unit of work: overall, and by video size."""

    rate: float | None = None
    rates: Mapping[int, float] = field(default_factory=dict)
    """Seconds per unit of work, by the tokens of a forward."""

    def seconds(self, work: float, tokens: int) -> float | None:
        """Return the seconds that ``work`` takes; None until the model has finished a task."""
        rate = self.rates.get(tokens, self.rate)
        return None if rate is None else work * rate


@dataclass(frozen=True, slots=True)
class Forecast:
    """The order of one queue, and the seconds until each of its tasks starts."""

    keys: Sequence[Key] = ()
    """The tasks' sort keys, in order."""
    places: Mapping[int, int] = field(default_factory=dict)
    """Index in that order, by ``seq``."""
    starts_s: Sequence[float] = ()
    """Seconds until each task starts, in the same order; empty when no speed or no replica is known."""
    next_start_s: float | None = None
    """Seconds until a task queued behind all of these starts."""
    starts_of: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Seconds until each task starts, by owner."""
    clock: FairClock = field(default_factory=FairClock)
    virtual_times: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """(−priority, virtual time) of each owner after each of its tasks was taken."""

    def place(self, *, seq: int, owner: str, priority: int) -> int:
        """Return the task's index; for a task newer than the snapshot, the index its fair-share key gives."""
        known = self.places.get(seq)
        if known is not None:
            return known
        times = self.virtual_times.get(owner, ())
        before = bisect_right(times, -priority, key=lambda time: time[0])
        time = times[before - 1][1] if before else self.clock.time_of(owner)
        return bisect_left(self.keys, (-priority, time, seq))

    def start_s(self, place: int) -> float | None:
        """Return seconds from the snapshot until a task at that index starts; None if not known."""
        return self.starts_s[place] if place < len(self.starts_s) else self.next_start_s


class Forecaster:
    """Simulates one queue, some tasks at a time.

    ``runs``: the seconds left and the owner of each run of the model. ``running``: each owner's number of
    runs, of all models. Without replicas or a speed only the order is forecast.
    """

    def __init__(
        self,
        tasks: Sequence[QueuedTask],
        clock: FairClock,
        shares: Shares,
        *,
        speed: Speed,
        replicas: int = 0,
        runs: Sequence[tuple[float, str]] = (),
        running: Mapping[str, int] | None = None,
    ) -> None:
        """Prepare the simulation; ``tasks`` must be sorted by priority and age."""
        self._lines: dict[str, deque[QueuedTask]] = defaultdict(deque)
        for task in tasks:
            self._lines[task.owner].append(task)
        self._left = len(tasks)
        self._clock = clock
        self._times = {owner: clock.time_of(owner) for owner in self._lines}
        self._shares = {owner: share_of(shares, owner) for owner in self._lines}
        self._speed = speed
        self._timed = replicas > 0 and speed.rate is not None
        # A heap of (the time at which a replica is free, the owner of the task it runs until then).
        idle = max(0, replicas - len(runs))
        self._replicas = [(0.0, _NO_OWNER)] * idle + list(runs)
        heapify(self._replicas)
        self._free_slots = {
            owner: share.max_running - (running or {}).get(owner, 0)
            for owner, share in self._shares.items()
            if share.max_running is not None and self._timed
        }
        self._turns: list[tuple[Key, str]] = []
        for owner in self._lines:
            self._push_turn(owner)
        self._keys: list[Key] = []
        self._places: dict[int, int] = {}
        self._starts: list[float] = []
        self._starts_of: dict[str, list[float]] = defaultdict(list)
        self._virtual_times: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def advance(self, tasks: int) -> bool:
        """Simulate at most ``tasks`` tasks; return True if any is left."""
        for _ in range(min(tasks, self._left)):
            start = self._wait() if self._timed else 0.0
            if not self._turns:  # limits hold the rest back until runs of other models end
                return False
            self._take(start)
        return self._left > 0

    def forecast(self) -> Forecast:
        """Return the forecast; call once ``advance`` has returned False."""
        # A task held back by a limit came out of key order; ``Forecast.place`` bisects sorted keys.
        self._keys.sort()
        return Forecast(
            self._keys,
            self._places,
            self._starts,
            self._replicas[0][0] if self._timed else None,
            self._starts_of,
            self._clock,
            self._virtual_times,
        )

    def _wait(self) -> float:
        """Advance until a replica is free and an owner is within its limit; return that time in seconds."""
        start, idle = self._end_run(), 0
        while not self._turns and len(self._replicas) > 1:  # limits hold back every owner that waits
            heappop(self._replicas)
            start, idle = self._end_run(), idle + 1
        for _ in range(idle):
            heappush(self._replicas, (start, _NO_OWNER))
        return start

    def _end_run(self) -> float:
        """End the run that ends first; return its end in seconds."""
        start, owner = self._replicas[0]
        if owner in self._free_slots:
            heapreplace(self._replicas, (start, _NO_OWNER))
            self._free_slots[owner] += 1
            if self._free_slots[owner] == 1 and self._lines[owner]:
                self._push_turn(owner)
        return start

    def _take(self, start: float) -> None:
        key, owner = heappop(self._turns)
        task = self._lines[owner].popleft()
        self._left -= 1
        self._places[task.seq] = len(self._keys)
        self._keys.append(key)
        self._times[owner] = key[1] + task.work / self._shares[owner].weight
        self._virtual_times[owner].append((key[0], self._times[owner]))
        if self._timed:
            self._run(task, start)
        if self._lines[owner]:
            self._push_turn(owner)

    def _run(self, task: QueuedTask, start: float) -> None:
        self._starts.append(start)
        self._starts_of[task.owner].append(start)
        seconds = self._speed.seconds(task.work, task.tokens) or 0.0
        heapreplace(self._replicas, (start + seconds, task.owner))
        if task.owner in self._free_slots:
            self._free_slots[task.owner] -= 1

    def _push_turn(self, owner: str) -> None:
        """Push the owner's first task on the heap of turns, unless the owner has no free slot."""
        if self._free_slots.get(owner, 1) > 0:
            first = self._lines[owner][0]
            heappush(self._turns, ((-first.priority, self._times[owner], first.seq), owner))
