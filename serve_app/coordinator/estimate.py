"""The backlog of a model, and the number of replicas for it. Pure arithmetic: callers pass the time."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_UTILIZATION = 0.85
"""Highest utilization of the kept replicas, averaged over the window."""
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Backlog:
    """Queued and running work of one model, in replica-seconds."""

    queued: int
    queued_s: float
    """Seconds of all queued tasks together."""
    queued_waits_s: float
    """Seconds of the queued tasks, each capped at the target wait."""
    running_s: tuple[float, ...]
    """Seconds left of each run."""

    @property
    def tasks(self) -> int:
        """Number of queued and running tasks."""
        return self.queued + len(self.running_s)

    @property
    def seconds(self) -> float:
        """Seconds in which one replica would finish the backlog."""
        return self.queued_s + sum(self.running_s)

    def needed(self, target_wait_s: float) -> int:
        """Return the number of replicas for a queue wait of about ``target_wait_s`` seconds.

        A task delays others for as long as it runs, capped at the target wait: a longer task occupies one
        replica and no more. So there are never more replicas than tasks, and a single long task gets one.
        """
        waits_s = self.queued_waits_s + sum(min(left_s, target_wait_s) for left_s in self.running_s)
        return min(self.tasks, max(1, math.ceil(waits_s / target_wait_s - _EPSILON)))


class BusyReplicas:
    """The number of replicas to keep: the recently busy ones, with headroom for uneven arrivals.

    Without this, autoscaling would oscillate under a steady load: an empty queue would remove replicas, and
    the queue would grow until they came back. A run longer than the downscale delay keeps only its own
    replica, since it is not part of a stream of short tasks.

    Serve downscales after ``downscale_delay_s`` seconds of lower targets, to the latest target. The window
    here is shorter, so that a gap between two long runs does not count.
    """

    def __init__(self, downscale_delay_s: float) -> None:
        self._long_s = downscale_delay_s
        self._window_s = downscale_delay_s / 2
        self._seen: deque[tuple[float, int, int]] = deque()
        """Samples of (time, number of short runs, number of long runs)."""

    def sample(self, now: float, runs_s: Sequence[float]) -> None:
        """Record the expected total seconds of each run at time ``now``. Call at even intervals."""
        longs = sum(seconds >= self._long_s for seconds in runs_s)
        self._seen.append((now, len(runs_s) - longs, longs))
        while self._seen[0][0] <= now - self._window_s:
            self._seen.popleft()

    @property
    def kept(self) -> int:
        """Number of replicas to keep."""
        if not self._seen:
            return 0
        shorts = [short for _, short, _ in self._seen]
        enough = math.ceil(sum(shorts) / len(shorts) / _MAX_UTILIZATION - _EPSILON)
        return max(long for _, _, long in self._seen) + max(shorts[-1], enough)
