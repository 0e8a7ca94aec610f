"""How much a model has to do, and how many replicas that is worth. Plain arithmetic, no clock of its own."""

import math
from collections import deque
from dataclasses import dataclass

_BUSIEST = 0.85
"""Share of their time that replicas may be busy for one fewer to be enough."""
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits and runs of one model, in seconds of one replica."""

    queued: int
    queued_s: float
    """Of all queued tasks together."""
    queued_waits_s: float
    """The same, but no task counts for more than the wanted wait."""
    running_s: tuple[float, ...]
    """What is left of each run."""

    @property
    def tasks(self) -> int:
        """Queued and running ones."""
        return self.queued + len(self.running_s)

    @property
    def seconds(self) -> float:
        """One replica would have so long to go."""
        return self.queued_s + sum(self.running_s)

    def needed(self, target_wait_s: float) -> int:
        """Replicas with which the last task in the queue waits about ``target_wait_s``.

        A task keeps others waiting for as long as it takes; once that is longer than anybody is to wait,
        it needs a replica to itself and no more. So there are never more replicas than tasks, and a single
        long task gets one.
        """
        waits_s = self.queued_waits_s + sum(min(left_s, target_wait_s) for left_s in self.running_s)
        return min(self.tasks, max(1, math.ceil(waits_s / target_wait_s - _ROUNDING)))


class BusyReplicas:
    """How many replicas were busy on average lately: so many are kept, and a few for what comes unevenly.

    Without this, a steady load would empty the queue, lose its replicas, fill the queue and get them back.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()
        self._sum = 0

    def see(self, now: float, busy: int) -> None:
        """Note how many are busy at this time (seconds). To be called at even intervals."""
        self._seen.append((now, busy))
        self._sum += busy
        while self._seen[0][0] <= now - self._window_s:
            self._sum -= self._seen.popleft()[1]

    @property
    def kept(self) -> int:
        """Replicas that are worth keeping: those that run, and as many as would be busy most of the time."""
        if not self._seen:
            return 0
        mean = self._sum / len(self._seen)
        return max(self._seen[-1][1], math.ceil(mean / _BUSIEST - _ROUNDING))
