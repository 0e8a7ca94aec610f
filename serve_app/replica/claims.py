"""Prefetched claims: a replica claims its next task just before a short run ends; its device never waits."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from serve_app.tasks.moving_average import updated_average
from serve_app.tasks.task import Task

_SHORT_S = 2.0
"""Runs that take longer are not timed to the end: what lies between two of them does not show."""
_LONGEST_LEAD_S = 0.1
"""A task is never claimed longer before it can begin: it is called running then, and may not be overtaken."""

Claim = Callable[[], Awaitable[Task | None]]


class Claims:
    """The claims of one replica, timed by how long its runs and claims take."""

    def __init__(self, hand_back: Callable[[Task], Awaitable[None]]) -> None:
        self._hand_back = hand_back
        self._seconds_per_work: float | None = None
        self._claim_s: float | None = None

    async def take(self, claim: Claim) -> Task | None:
        """The next task; None when there is none."""
        began = time.monotonic()
        task = await claim()
        self._claim_s = updated_average(self._claim_s, time.monotonic() - began)
        return task

    @asynccontextmanager
    async def after(self, task: Task, claim: Claim) -> AsyncIterator["PrefetchedClaim"]:
        """Run ``task`` within: yield the prefetched claim; a task that nobody took from it is handed back."""
        prefetched = PrefetchedClaim(self, claim, self._wait_s(task))
        try:
            yield prefetched
        finally:
            if (left := await prefetched.end()) is not None:
                await self._hand_back(left)

    def ran(self, task: Task, seconds: float) -> None:
        """Record how long a run of ``task`` held the engine."""
        if task.work > 0:
            self._seconds_per_work = updated_average(self._seconds_per_work, seconds / task.work)

    def _wait_s(self, task: Task) -> float | None:
        """Seconds until the next claim; None: until the run ends."""
        if self._seconds_per_work is None or self._claim_s is None:
            return None
        expected_s = task.work * self._seconds_per_work
        return expected_s - min(2 * self._claim_s, _LONGEST_LEAD_S) if expected_s < _SHORT_S else None


class PrefetchedClaim:
    """The claim of the task after this one, sent while a run is about to end."""

    def __init__(self, claims: Claims, claim: Claim, wait_s: float | None) -> None:
        self._run_ended = asyncio.Event()
        self._taking = asyncio.create_task(self._take(claims, claim, wait_s))
        self.is_under_way = False
        """True once the coordinator has been asked."""
        self._is_taken = False

    async def task(self) -> Task | None:
        """Answer the next task once the run has ended: claimed by now, or claimed at once."""
        self._run_ended.set()
        task = await asyncio.shield(self._taking)
        self._is_taken = True
        return task

    async def end(self) -> Task | None:
        """Stop claiming; answer a task that was claimed and that nobody took."""
        if self._is_taken:
            return None
        if not self.is_under_way:
            self._taking.cancel()
            return None
        # A claim that was sent must be answered: the coordinator may have given the task already.
        return await self._taking

    async def _take(self, claims: Claims, claim: Claim, wait_s: float | None) -> Task | None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._run_ended.wait(), wait_s)
        self.is_under_way = True
        return await claims.take(claim)
