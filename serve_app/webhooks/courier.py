"""The courier: the coordinator's duty that sends the messages of the outbox, several at a time."""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable

from serve_app.store.delivery_ledger import DeliveryLedger, Due, Outcome
from serve_app.store.leadership import Superseded
from serve_app.tasks.webhook import DeliveryState
from serve_app.webhooks.schedule import MAX_JITTER, outcome
from serve_app.webhooks.sender import Sender

_MOST_AT_ONCE = 64
_MOST_TO_ONE = 4
"""Messages under way to one receiver: a slow one does not hold up the others."""

_POLL_S = 1.0
_PAUSE_AFTER_ERROR_S = 1.0
_logger = logging.getLogger("ray.serve")


class Courier:
    """Sends what is due and records what became of it.

    A message is sent before that is recorded. So whatever dies in between, it is sent again, under the same
    id. ``clock``: returns seconds since 1970.
    """

    def __init__(
        self,
        ledger: DeliveryLedger,
        sender: Sender,
        *,
        on_attempt: Callable[[DeliveryState], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_attempt`` is called with the state that each recorded attempt left its message in."""
        self._ledger = ledger
        self._sender = sender
        self._on_attempt = on_attempt
        self._clock = clock
        self._under_way: dict[asyncio.Task[None], Due] = {}
        self._wake = asyncio.Event()
        self._superseded: Superseded | None = None

    def nudge(self) -> None:
        """Look now instead of at the next poll, after a task has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Send messages until cancelled. Raises ``Superseded``."""
        try:
            while True:
                await self.look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL_S)
                self._wake.clear()
        finally:
            for sending in self._under_way:
                sending.cancel()

    async def look(self) -> None:
        """Begin to send what is due, as far as there is room. Raises ``Superseded``."""
        if self._superseded is not None:
            raise self._superseded
        while (room := _MOST_AT_ONCE - len(self._under_way)) > 0:
            to_each = Counter(due.delivery.endpoint for due in self._under_way.values())
            found = await self._ledger.due(
                self._clock(),
                limit=room,
                under_way=[due.delivery.id for due in self._under_way.values()],
                busy=[endpoint for endpoint, count in to_each.items() if count >= _MOST_TO_ONE],
            )
            if not found:
                return
            for due in found:
                if to_each[due.delivery.endpoint] < _MOST_TO_ONE:
                    to_each[due.delivery.endpoint] += 1
                    self._begin(due)

    async def idle(self) -> None:
        """Return once nothing is under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    def _begin(self, due: Due) -> None:
        sending = asyncio.create_task(self._carry(due))
        self._under_way[sending] = due
        sending.add_done_callback(self._ended)

    def _ended(self, sending: asyncio.Task[None]) -> None:
        del self._under_way[sending]
        self._wake.set()

    async def _carry(self, due: Due) -> None:
        at = self._clock()
        answer = await self._sender.send(due, at=at)
        jitter = random.uniform(0.0, MAX_JITTER)
        came_to = outcome(answer, attempts=due.delivery.attempts, at=at, jitter=jitter)
        if came_to.fault is not None:
            # Neither the URL, which may carry a token, nor the body.
            _logger.info("webhook %s: %s", due.delivery.id, came_to.fault)
        await self._record(due, came_to)

    async def _record(self, due: Due, came_to: Outcome) -> None:
        # Kept under way until it is recorded: while the store is away, nothing is sent over and over.
        while True:
            try:
                await self._ledger.record(due.delivery, came_to)
                return self._on_attempt(came_to.state)
            except Superseded as error:
                self._superseded = error
                return
            except Exception:
                _logger.warning("webhook %s: its attempt is not recorded yet", due.delivery.id, exc_info=True)
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
