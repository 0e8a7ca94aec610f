"""Dispatch of work to replicas: at most as many tickets as there are tasks and replicas.

A ticket is not bound to a task: it asks any one replica to claim the next task. The task is chosen by late
binding, when a replica is free to start it. So priorities hold to the last moment, a ``running`` task never
waits for a replica, and a cancelled task takes no replica's time.
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
    """The replica that held the ticket has certainly died."""


@dataclass(slots=True)
class _Ticket:
    model: str
    tasks: list[Task] = field(default_factory=list)
    """Tasks claimed with the ticket, newest last; one ticket can serve several short tasks."""


class Dispatcher:
    """Keeps tickets outstanding: for each model at most its window, and at most one for each task.

    ``window``: returns the limit of outstanding tickets of a model with queued tasks. ``send``: delivers a
    ticket to a free replica and returns when the run has ended; raises ``ReplicaLost`` when the replica died,
    and any other exception when that is not certain. ``on_lost``: called for each task of a lost replica.
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
        """Dispatch now instead of at the next poll, after a submit or the end of a run."""
        self._wake.set()

    def claimed(self, ticket_id: str, task: Task) -> None:
        """Record that a replica claimed ``task`` with a ticket; ignore a previous coordinator's ticket."""
        if ticket_id in self._tickets:
            self._tickets[ticket_id].tasks.append(task)

    async def run(self) -> None:
        """Dispatch until cancelled. Raises ``Superseded``."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S)
            self._wake.clear()
            await self.look()

    async def look(self) -> None:
        """Send the tickets for the current demand. Raises ``Superseded``."""
        demand = await self._ledger.demand()
        for model in self._models:
            queued = demand.queued.get(model, 0)
            if not queued:
                continue
            held = [ticket for ticket in self._tickets.values() if ticket.model == model]
            claimed = {task.uid for ticket in held for task in ticket.tasks}
            # Orphans: runs claimed with a previous coordinator's ticket, each of which occupies a replica.
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
            # The run may still be going on: its lease decides. The pause prevents a busy loop of tickets
            # to an unreachable model.
            _logger.warning("a ticket of model %s ended in an error", model, exc_info=True)
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
        ticket = self._tickets.pop(ticket_id)
        if lost:
            for task in ticket.tasks:
                await self._on_lost(task)
        self.nudge()
