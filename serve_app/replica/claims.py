"""Prefetched claims: a replica claims its next task just before a short run ends."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from serve_app.tasks.moving_average import updated_average
from serve_app.tasks.task import Task

_SHORT_S = 2.0
"""Longest run, in seconds, before whose end the next task is prefetched: after a longer one the gap is
negligible.
"""
_LONGEST_LEAD_S = 0.1
"""Longest time, in seconds, from a prefetched claim to the start: a claimed task cannot be overtaken any
more.
"""
_PATIENCE_S = 1.0
"""Longest time, in seconds, that a claimed task waits for a run that takes longer than expected: nobody
renews its lease.
"""

Claim = Callable[[], Awaitable[Task | None]]


class Claims:
    """The claims of one replica, timed by moving averages of its run and claim times."""

    def __init__(self, hand_back: Callable[[Task], Awaitable[None]]) -> None:
        self.hand_back = hand_back
        self._seconds_per_work: float | None = None
        self._claim_s: float | None = None

    async def take(self, claim: Claim) -> Task | None:
        """Claim the next task; return None when there is none."""
        began = time.monotonic()
        task = await claim()
        self._claim_s = updated_average(self._claim_s, time.monotonic() - began)
        return task

    @asynccontextmanager
    async def after(self, task: Task, claim: Claim) -> AsyncIterator["PrefetchedClaim"]:
        """Yield the prefetched claim during a run of ``task``; hand back a claimed task that is not used."""
        prefetched = PrefetchedClaim(self, claim, self._wait_s(task))
        try:
            yield prefetched
        finally:
            if (left := await prefetched.end()) is not None:
                await self.hand_back(left)

    def ran(self, task: Task, seconds: float) -> None:
        """Record the seconds that a run of ``task`` used the engine."""
        if task.work > 0:
            self._seconds_per_work = updated_average(self._seconds_per_work, seconds / task.work)

    def _wait_s(self, task: Task) -> float | None:
        """Return the seconds from the start of the run to the next claim; None: claim when the run ends."""
        if self._seconds_per_work is None or self._claim_s is None:
            return None
        expected_s = task.work * self._seconds_per_work
        return expected_s - min(2 * self._claim_s, _LONGEST_LEAD_S) if expected_s < _SHORT_S else None


class PrefetchedClaim:
    """A claim of the next task, sent shortly before the current run ends."""

    def __init__(self, claims: Claims, claim: Claim, wait_s: float | None) -> None:
        self._run_ended = asyncio.Event()
        self._taking = asyncio.create_task(self._take(claims, claim, wait_s))
        self.is_under_way = False
        """True from when a claim is sent to the coordinator until what it brought is handed back."""
        self._is_taken = False

    async def task(self) -> Task | None:
        """Return the next task; call when the run has ended. Claims at once if the claim was not sent yet."""
        self._run_ended.set()
        task = await asyncio.shield(self._taking)
        self._is_taken = True
        return task

    async def end(self) -> Task | None:
        """Cancel the claim; return a claimed task that ``task`` has not returned."""
        if self._is_taken:
            return None
        if not self.is_under_way:
            self._taking.cancel()
            return None
        # A claim in flight must be awaited: the coordinator may have assigned the task already.
        self._run_ended.set()
        return await self._taking

    async def _take(self, claims: Claims, claim: Claim, wait_s: float | None) -> Task | None:
        await self._ends_within(wait_s)
        self.is_under_way = True
        task = await claims.take(claim)
        if task is None or await self._ends_within(_PATIENCE_S):
            return task
        await claims.hand_back(task)
        self.is_under_way = False
        await self._run_ended.wait()
        self.is_under_way = True
        return await claims.take(claim)

    async def _ends_within(self, seconds: float | None) -> bool:
        """Wait for the end of the run; return whether it came in so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._run_ended.wait(), seconds)
        return self._run_ended.is_set()
