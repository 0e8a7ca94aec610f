"""The courier: the coordinator's duty that sends what is due, messages or videos, several at a time."""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol

from serve_app.store.delivery_ledger import D, Due, Outcome
from serve_app.store.leadership import Superseded
from serve_app.tasks.webhook import DeliveryState
from serve_app.tracing.task_spans import NO_SPANS, TaskSpans
from serve_app.webhooks.schedule import MAX_JITTER, Answer, outcome

_MOST_AT_ONCE = 64
_MOST_TO_ONE = 4
"""Deliveries under way to one receiver: a slow one does not hold up the others."""

_POLL_S = 1.0
_PAUSE_AFTER_ERROR_S = 1.0
_logger = logging.getLogger("ray.serve")


class Ledger(Protocol[D]):
    """A coordinator's record of deliveries of one kind."""

    async def due(
        self, now: float, *, limit: int, under_way: Collection[str], busy: Collection[str]
    ) -> Sequence[Due[D]]:
        """Return what is due at ``now``, without what is ``under_way`` or goes to the ``busy``."""

    async def record(self, delivery: D, outcome: Outcome) -> None:
        """Store what became of an attempt."""


class Carrier(Protocol[D]):
    """What makes attempts at deliveries of one kind."""

    async def send(self, due: Due[D], *, at: float) -> Answer:
        """Make an attempt at ``at``. Never raises ``Exception``."""


class Courier(Generic[D]):
    """Sends what is due and records what became of it.

    It is sent before that is recorded. So whatever dies in between, it is sent again, a message under the
    same id. ``clock``: returns seconds since 1970.
    """

    def __init__(
        self,
        ledger: Ledger[D],
        sender: Carrier[D],
        *,
        on_attempt: Callable[[DeliveryState], None],
        clock: Callable[[], float] = time.time,
        noun: str = "webhook",
        most_at_once: int = _MOST_AT_ONCE,
        spans: TaskSpans = NO_SPANS,
    ) -> None:
        """``on_attempt`` is called with the state that each recorded attempt left its delivery in.

        ``noun``: what the log and the ``spans``, of which each attempt is one, call a delivery.
        """
        self._ledger: Ledger[D] = ledger
        self._sender: Carrier[D] = sender
        self._on_attempt = on_attempt
        self._clock = clock
        self._noun = noun
        self._most_at_once = most_at_once
        self._spans = spans
        self._under_way: dict[asyncio.Task[None], Due[D]] = {}
        self._wake = asyncio.Event()
        self._superseded: Superseded | None = None

    def nudge(self) -> None:
        """Look now instead of at the next poll, after a task has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Send what is due until cancelled. Raises ``Superseded``."""
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
        while (room := self._most_at_once - len(self._under_way)) > 0:
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

    def _begin(self, due: Due[D]) -> None:
        sending = asyncio.create_task(self._carry(due))
        self._under_way[sending] = due
        sending.add_done_callback(self._ended)

    def _ended(self, sending: asyncio.Task[None]) -> None:
        del self._under_way[sending]
        self._wake.set()

    async def _carry(self, due: Due[D]) -> None:
        began = time.time()
        answer = await self._sender.send(due, at=self._clock())
        jitter = random.uniform(0.0, MAX_JITTER)
        # From its end on: an upload that fails may have taken minutes.
        came_to = outcome(answer, attempts=due.delivery.attempts, at=self._clock(), jitter=jitter)
        if came_to.fault is not None:
            # Neither the URL, which may carry a token, nor the body.
            _logger.info("%s %s: %s", self._noun, due.delivery.id, came_to.fault)
        self._spans.sent(
            self._noun, due.task, began, due.delivery.attempts + 1, answer.code, error=came_to.fault
        )
        await self._record(due, came_to)

    async def _record(self, due: Due[D], came_to: Outcome) -> None:
        # Kept under way until it is recorded: while the store is away, nothing is sent over and over.
        while True:
            try:
                await self._ledger.record(due.delivery, came_to)
                return self._on_attempt(came_to.state)
            except Superseded as error:
                self._superseded = error
                return
            except Exception:
                _logger.warning(
                    "%s %s: its attempt is not recorded yet", self._noun, due.delivery.id, exc_info=True
                )
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
