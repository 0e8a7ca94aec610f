"""Dispatch of work to replicas: at most as many tickets as there are tasks and replicas.

A ticket is not bound to a task: it asks any one replica to claim the next task. The task is chosen by late
binding, when a replica is free to start it. So priorities hold to the last moment, a ``running`` task never
waits for a replica, and a cancelled task takes no replica's time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from uuid import uuid4

from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.task import Task

_POLL_S = 1.0
_RESTS = 9
"""Times as long as a look at the queue took, the dispatcher rests: it takes a tenth of the time at most."""
_LONGEST_REST_S = 0.1
_PAUSE_AFTER_ERROR_S = 0.5
_logger = logging.getLogger("ray.serve")


async def _always() -> bool:
    return True


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
    ``may_begin``: whether any task may be begun now; asked while one waits.
    """

    def __init__(
        self,
        ledger: RunLedger,
        models: Sequence[str],
        window: Callable[[str], int],
        send: Callable[[str, str], Awaitable[None]],
        on_lost: Callable[[Task], Awaitable[None]],
        may_begin: Callable[[], Awaitable[bool]] = _always,
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._window = window
        self._send = send
        self._on_lost = on_lost
        self._may_begin = may_begin
        self._tickets: dict[str, _Ticket] = {}
        self._orphans: dict[str, set[str]] = {}
        """Uids, by model, of runs without a ticket, each of which occupies a replica until it ends: claimed
        with a previous coordinator's ticket, or with one that has ended in an error.
        """
        self._knows_orphans = False
        self._followers: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """Dispatch now instead of at the next poll, after a submit or the end of a run."""
        self._wake.set()

    def claimed(self, ticket_id: str, task: Task) -> None:
        """Record that a replica claimed ``task`` with a ticket, maybe a previous coordinator's."""
        if ticket_id in self._tickets:
            self._tickets[ticket_id].tasks.append(task)
        else:
            self._orphan(task)

    async def run(self) -> None:
        """Dispatch until cancelled. Raises ``Superseded``."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S)
            self._wake.clear()
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(min(_RESTS * (time.monotonic() - began), _LONGEST_REST_S))

    async def look(self) -> None:
        """Send the tickets for the current demand. Raises ``Superseded``."""
        waiting = await self._ledger.waiting()
        orphans = await self._living_orphans()
        if any(waiting.queued.values()) and not await self._may_begin():
            return
        for model in self._models:
            if not waiting.queued.get(model):
                continue
            held = [ticket for ticket in self._tickets.values() if ticket.model == model]
            unclaimed = sum(not ticket.tasks for ticket in held)
            room = self._window(model) - len(orphans.get(model, ())) - len(held)
            for _ in range(min(waiting.ready.get(model, 0) - unclaimed, room)):
                self._issue(model)

    async def _living_orphans(self) -> Mapping[str, Set[str]]:
        """Forget the orphans that have ended; return the others."""
        if not self._knows_orphans:  # no ticket is out yet
            for model, uids in (await self._ledger.demand()).running.items():
                self._orphans.setdefault(model, set()).update(uids)
            self._knows_orphans = True
        if known := frozenset[str]().union(*self._orphans.values()):
            ended = known - await self._ledger.still_running(known)
            for uids in self._orphans.values():
                uids -= ended
        return self._orphans

    def _orphan(self, task: Task) -> None:
        self._orphans.setdefault(task.model, set()).add(task.uid)

    def _issue(self, model: str) -> None:
        ticket_id = uuid4().hex
        self._tickets[ticket_id] = _Ticket(model)
        follower = asyncio.create_task(self._follow(ticket_id, model))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)

    async def _follow(self, ticket_id: str, model: str) -> None:
        lost = failed = False
        try:
            await self._send(model, ticket_id)
        except ReplicaLost:
            lost = True
        except Exception:
            failed = True
            # The run may still be going on: its lease decides. The pause prevents a busy loop of tickets
            # to an unreachable model.
            _logger.warning("a ticket of model %s ended in an error", model, exc_info=True)
            await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
        ticket = self._tickets.pop(ticket_id)
        for task in ticket.tasks:
            if lost:
                await self._on_lost(task)
            elif failed:
                self._orphan(task)
        self.nudge()
