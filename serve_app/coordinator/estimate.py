"""The backlog of a model, and the replicas that it is worth. Plain arithmetic, no clock of its own."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_BUSIEST = 0.85
"""Share of their time that replicas may be busy for one fewer to be enough."""
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Backlog:
    """Queued and running work of one model, in seconds of one replica."""

    queued: int
    queued_s: float
    """Seconds of all queued tasks together."""
    queued_waits_s: float
    """Seconds of the queued tasks, each counted for at most the wanted wait."""
    running_s: tuple[float, ...]
    """The seconds that each run has left."""

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
    """The replicas that were busy lately: these are kept, and a few more for uneven arrivals.

    Without this, a steady load would empty the queue, lose its replicas, fill the queue and get them back.
    A run that is longer than replicas are kept idle keeps its own and no other: it is no stream of tasks.

    Serve waits ``downscale_delay_s`` for fewer to be wanted all the time, and then takes the newest number.
    So what is looked back at is shorter than that, and a moment between two long runs does not count.
    """

    def __init__(self, downscale_delay_s: float) -> None:
        self._long_s = downscale_delay_s
        self._window_s = downscale_delay_s / 2
        self._seen: deque[tuple[float, int, int]] = deque()
        """Time, and how many were busy with short and with long runs."""

    def see(self, now: float, runs_s: Sequence[float]) -> None:
        """Note the runs at this time (seconds), each by the seconds it takes as a whole.

        To be called at even intervals.
        """
        longs = sum(seconds >= self._long_s for seconds in runs_s)
        self._seen.append((now, len(runs_s) - longs, longs))
        while self._seen[0][0] <= now - self._window_s:
            self._seen.popleft()

    @property
    def kept(self) -> int:
        """Replicas that are worth keeping."""
        if not self._seen:
            return 0
        shorts = [short for _, short, _ in self._seen]
        enough = math.ceil(sum(shorts) / len(shorts) / _BUSIEST - _ROUNDING)
        return max(long for _, _, long in self._seen) + max(shorts[-1], enough)
