"""The check of leases: ends the runs that are silent, unless the coordinator could not hear them."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from serve_app.config.settings import TaskSettings
from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.task import Task

_EVERY_S = 1.0


class Leases:
    """Gives up the runs with an expired lease, and fails the waiting tasks whose deadline has passed.

    Runs get a grace to report at the start, after an outage of the store, and when a check comes later than a
    heartbeat, as in a process that was frozen. ``keep_seat``: called before each check. ``on_given_up`` and
    ``on_expired``: told of each task.
    """

    def __init__(
        self,
        ledger: RunLedger,
        keep_seat: Callable[[], Awaitable[None]],
        on_given_up: Callable[[Task], None],
        on_expired: Callable[[Task], None],
        rules: TaskSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._keep_seat = keep_seat
        self._on_given_up = on_given_up
        self._on_expired = on_expired
        self._grace_s = rules.grace_s
        self._late_after_s = _EVERY_S + rules.heartbeat_s
        self._clock = clock
        self._checked_at = -math.inf

    async def run(self) -> None:
        """Check once a second until cancelled. Raises ``Superseded`` and ``StoreUnavailable``."""
        self._checked_at = -math.inf
        while True:
            await self.check()
            await asyncio.sleep(_EVERY_S)

    async def check(self) -> None:
        """Check once, if this service leads. Raises ``Superseded`` and ``StoreUnavailable``."""
        if self._clock() - self._checked_at > self._late_after_s:
            await self._ledger.excuse(self._grace_s)
        await self._keep_seat()
        if self._ledger.seat.leads:
            for task in await self._ledger.expire_leases():
                self._on_given_up(task)
            for task in await self._ledger.expire_waiting():
                self._on_expired(task)
        self._checked_at = self._clock()
