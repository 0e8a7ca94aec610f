"""The demand: how many tasks wait for each model, and which ones run."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.fair_queue import FairQueue
from serve_app.store.pause_book import read_pauses
from serve_app.store.tables import TASKS
from serve_app.tasks.transitions import Status

_IS_QUEUED = TASKS.c.status == Status.QUEUED
ANY_QUEUED = select(exists().where(_IS_QUEUED))
"""Asks whether any task waits."""
_OF_EACH = TASKS.c.model, TASKS.c.owner
# Apart from the times of submits, since an index alone answers it.
_COUNTS = select(*_OF_EACH, func.count()).where(_IS_QUEUED).group_by(*_OF_EACH)
_SINCE = select(*_OF_EACH, func.min(TASKS.c.created_at)).where(_IS_QUEUED).group_by(*_OF_EACH)
_RUNNING = select(TASKS.c.model, TASKS.c.uid, TASKS.c.runner, TASKS.c.generation).where(
    TASKS.c.status == Status.RUNNING
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Queued tasks by model; a model without any has no entry."""

    queued: Mapping[str, int]
    """Number of queued tasks."""
    ready: Mapping[str, int]
    """Number of queued tasks within their owner's limit of running tasks; 0 during a drain or a pause, and
    where another service leads.
    """


NONE_WAITING = Waiting({}, {})


@dataclass(frozen=True, slots=True)
class Demand:
    """Queued tasks by model, as ``Waiting`` has them, and running ones; a model without any has no entry."""

    queued: Mapping[str, int]
    ready: Mapping[str, int]
    oldest: Mapping[str, float]
    """When the oldest ready task was submitted, in seconds since 1970; a model without any has no entry."""
    running: Mapping[str, Set[str]]
    """Uids of the running tasks of this service."""
    runners: Set[str]
    """Ids of the replicas that run a task."""


async def read_waiting(connection: AsyncConnection, queue: FairQueue, *, begins: bool) -> Waiting:
    """Count the tasks that wait; ``begins``: whether any are begun here."""
    return _sums(await _owners(connection, queue, begins=begins))


async def read_demand(
    connection: AsyncConnection, queue: FairQueue, *, begins: bool, generation: int
) -> Demand:
    """Read the demand of the service with that generation."""
    owners = await _owners(connection, queue, begins=begins)
    oldest: dict[str, float] = {}
    running: dict[str, set[str]] = {}
    ready = {(each.model, each.owner) for each in owners if each.ready}
    for model, owner, since in await connection.execute(_SINCE):
        if (model, owner) in ready:
            oldest[model] = min(since, oldest.get(model, since))
    runs = (await connection.execute(_RUNNING)).all()
    for run in runs:
        if run.generation == generation:
            running.setdefault(run.model, set()).add(run.uid)
    waiting = _sums(owners)
    return Demand(waiting.queued, waiting.ready, oldest, running, {run.runner for run in runs})


@dataclass(frozen=True, slots=True)
class _Owner:
    model: str
    owner: str
    queued: int
    ready: int


async def _owners(connection: AsyncConnection, queue: FairQueue, *, begins: bool) -> Sequence[_Owner]:
    """Count each owner's queued tasks of each model."""
    counts = (await connection.execute(_COUNTS)).all()
    if not counts:
        return []
    pauses, room = await read_pauses(connection), await queue.rooms(connection)
    return [
        _Owner(
            model, owner, count, min(count, room(owner)) if begins and not pauses.hold(owner, model) else 0
        )
        for model, owner, count in counts
    ]


def _sums(owners: Sequence[_Owner]) -> Waiting:
    queued, ready = Counter[str](), Counter[str]()
    for each in owners:
        queued[each.model] += each.queued
        ready[each.model] += each.ready
    return Waiting(queued, ready)
