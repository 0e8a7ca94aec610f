"""Dispatch: asking replicas to work, never more of them than there is work and room for.

What is sent out is a ticket, not a task: "one of you, claim what is next". A task is chosen when a
replica is really free to begin it, so priorities hold to the last moment, ``running`` never means waiting,
and a cancelled task takes no replica's time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.task import Task

_POLL_S = 1.0
_PAUSE_AFTER_ERROR_S = 0.5
_logger = logging.getLogger("ray.serve")


class ReplicaLost(Exception):
    """The replica that held the ticket is gone for certain."""


@dataclass(slots=True)
class _Ticket:
    model: str
    tasks: list[Task] = field(default_factory=list)
    """Tasks claimed with it, newest last; a young ticket serves several short tasks."""


class Dispatcher:
    """Keeps tickets out: per model at most its window, and at most as many as tasks wait or run.

    ``window`` is asked at each look that finds queued tasks of a model. ``send`` carries a ticket to a
    free replica and returns when the run has ended. It raises ``ReplicaLost`` when the replica died,
    anything else when that is not certain. ``on_lost`` is told of the task that a lost replica was running.
    """

    def __init__(
        self,
        ledger: RunLedger,
        models: Sequence[str],
        window: Callable[[str], int],
        send: Callable[[str, str], Awaitable[None]],
        on_lost: Callable[[Task], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._window = window
        self._send = send
        self._on_lost = on_lost
        self._tickets: dict[str, _Ticket] = {}
        self._followers: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """Something was submitted or has ended: look again now rather than at the next poll."""
        self._wake.set()

    def claimed(self, ticket_id: str, task: Task) -> None:
        """A replica claimed ``task`` with that ticket. One of an earlier coordinator is not known here."""
        if ticket_id in self._tickets:
            self._tickets[ticket_id].tasks.append(task)

    async def run(self) -> None:
        """Dispatch until cancelled, or until the ledger raises ``Superseded``."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S)
            self._wake.clear()
            await self.look()

    async def look(self) -> None:
        """Send the tickets that are wanted now."""
        demand = await self._ledger.demand()
        for model in self._models:
            queued = demand.queued.get(model, 0)
            if not queued:
                continue
            held = [ticket for ticket in self._tickets.values() if ticket.model == model]
            claimed = {task.uid for ticket in held for task in ticket.tasks}
            # Runs begun under an earlier coordinator hold a replica without a ticket of ours.
            orphans = len(demand.running.get(model, frozenset()) - claimed)
            unclaimed = sum(not ticket.tasks for ticket in held)
            room = self._window(model) - orphans - len(held)
            for _ in range(min(demand.ready.get(model, 0) - unclaimed, room)):
                self._issue(model)

    def _issue(self, model: str) -> None:
        ticket_id = uuid4().hex
        self._tickets[ticket_id] = _Ticket(model)
        follower = asyncio.create_task(self._follow(ticket_id, model))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)

    async def _follow(self, ticket_id: str, model: str) -> None:
        lost = False
        try:
            await self._send(model, ticket_id)
        except ReplicaLost:
            lost = True
        except Exception:
            # Whether the run goes on is not known: its lease decides. Without the pause, a model that
            # cannot be reached would be asked again at once, and again.
            _logger.warning("a ticket of model %s ended in an error", model, exc_info=True)
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
        ticket = self._tickets.pop(ticket_id)
        if lost:
            for task in ticket.tasks:
                await self._on_lost(task)
        self.nudge()
