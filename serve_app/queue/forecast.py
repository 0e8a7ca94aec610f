"""When the queued tasks of one model will start: the queue played through as it will be taken.

The same order as the coordinator takes them in (priority, fair share, age), on replicas that each take the
next task when they are free. What is to come (new tasks, cancels, other replicas) is not known and left out.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

from serve_app.tasks.fair_share import FairClock, Shares, share_of
from serve_app.tasks.task import QueuedTask

Key = tuple[int, float, int]
"""(−priority, the owner's virtual time, seq): sorts tasks in the order they are taken in."""

_NOBODY = ""
"""No key has this name."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model is, in seconds per unit of work: as a whole, and for the sizes that were made."""

    rate: float | None = None
    rates: Mapping[int, float] = field(default_factory=dict)
    """By the tokens of a forward."""

    def seconds(self, work: float, tokens: int) -> float | None:
        """What so much work takes; None until a task of the model has been finished."""
        rate = self.rates.get(tokens, self.rate)
        return None if rate is None else work * rate


@dataclass(frozen=True, slots=True)
class Forecast:
    """The order of a queue, and seconds until each of its tasks starts."""

    keys: Sequence[Key] = ()
    """In order."""
    places: Mapping[int, int] = field(default_factory=dict)
    """Index in that order, by seq."""
    starts_s: Sequence[float] = ()
    """In the same order; empty where it cannot be told."""
    next_start_s: float | None = None
    """Of a task behind them all."""
    starts_of: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By owner."""
    clock: FairClock = field(default_factory=FairClock)
    stands: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """(−priority, virtual time) of each owner once its tasks of that priority are taken."""

    def place(self, *, seq: int, owner: str, priority: int) -> int:
        """The task's index. One that came after the look stands where its owner's turn will put it."""
        known = self.places.get(seq)
        if known is not None:
            return known
        stands = self.stands.get(owner, ())
        before = bisect_right(stands, -priority, key=lambda stand: stand[0])
        time = stands[before - 1][1] if before else self.clock.time_of(owner)
        return bisect_left(self.keys, (-priority, time, seq))

    def start_s(self, place: int) -> float | None:
        """Seconds from the look until a task at that index starts."""
        return self.starts_s[place] if place < len(self.starts_s) else self.next_start_s


class Forecaster:
    """Plays one queue through, some tasks at a time.

    ``runs`` are the seconds left of each of the model's runs and its owner, ``running`` counts every owner's
    runs of all models. Without ``replicas`` or a speed, only the order is told.
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
        """``tasks`` stand in the order of their priority and age."""
        self._lines: dict[str, deque[QueuedTask]] = defaultdict(deque)
        for task in tasks:
            self._lines[task.owner].append(task)
        self._left = len(tasks)
        self._clock = clock
        self._times = {owner: clock.time_of(owner) for owner in self._lines}
        self._shares = {owner: share_of(shares, owner) for owner in self._lines}
        self._speed = speed
        self._timed = replicas > 0 and speed.rate is not None
        # When each is free, and whose task it has until then.
        idle = max(0, replicas - len(runs))
        self._machines = [(0.0, _NOBODY)] * idle + list(runs)
        heapify(self._machines)
        self._room = {
            owner: share.max_running - (running or {}).get(owner, 0)
            for owner, share in self._shares.items()
            if share.max_running is not None and self._timed
        }
        self._turns: list[tuple[Key, str]] = []
        for owner in self._lines:
            self._line_up(owner)
        self._keys: list[Key] = []
        self._places: dict[int, int] = {}
        self._starts: list[float] = []
        self._starts_of: dict[str, list[float]] = defaultdict(list)
        self._stands: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def advance(self, tasks: int) -> bool:
        """Play at most so many tasks; whether any is left to play."""
        for _ in range(min(tasks, self._left)):
            start = self._wait() if self._timed else 0.0
            if not self._turns:  # who is left waits for a run of another model
                return False
            self._take(start)
        return self._left > 0

    def forecast(self) -> Forecast:
        """What was found once nothing is left."""
        # Whom a limit held back comes later than its key says; new tasks are placed by keys in order.
        self._keys.sort()
        return Forecast(
            self._keys,
            self._places,
            self._starts,
            self._machines[0][0] if self._timed else None,
            self._starts_of,
            self._clock,
            self._stands,
        )

    def _wait(self) -> float:
        """Until a replica is free and somebody may have it; when that is."""
        start, idle = self._end_run(), 0
        while not self._turns and len(self._machines) > 1:  # limits hold back whoever is left
            heappop(self._machines)
            start, idle = self._end_run(), idle + 1
        for _ in range(idle):
            heappush(self._machines, (start, _NOBODY))
        return start

    def _end_run(self) -> float:
        """The first replica to be free has ended its run; when that was."""
        start, owner = self._machines[0]
        if owner in self._room:
            heapreplace(self._machines, (start, _NOBODY))
            self._room[owner] += 1
            if self._room[owner] == 1 and self._lines[owner]:
                self._line_up(owner)
        return start

    def _take(self, start: float) -> None:
        key, owner = heappop(self._turns)
        task = self._lines[owner].popleft()
        self._left -= 1
        self._places[task.seq] = len(self._keys)
        self._keys.append(key)
        self._times[owner] = key[1] + task.work / self._shares[owner].weight
        self._stands[owner].append((key[0], self._times[owner]))
        if self._timed:
            self._run(task, start)
        if self._lines[owner]:
            self._line_up(owner)

    def _run(self, task: QueuedTask, start: float) -> None:
        self._starts.append(start)
        self._starts_of[task.owner].append(start)
        seconds = self._speed.seconds(task.work, task.tokens) or 0.0
        heapreplace(self._machines, (start + seconds, task.owner))
        if task.owner in self._room:
            self._room[task.owner] -= 1

    def _line_up(self, owner: str) -> None:
        """Let the owner's first task have its turn, if the owner may have one more running."""
        if self._room.get(owner, 1) > 0:
            first = self._lines[owner][0]
            heappush(self._turns, ((-first.priority, self._times[owner], first.seq), owner))
