"""Group commit: concurrent submits share a transaction. Each is acknowledged only after the commit."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from serve_app.errors import Draining, OverQuota, QueueFull, ServiceError, TaskExists
from serve_app.store.batching import Batching
from serve_app.store.database import Database
from serve_app.store.rows import task_of, values_of
from serve_app.store.tables import SERVICES, TASKS
from serve_app.tasks.admission import Admission
from serve_app.tasks.task import NewTask, Task
from serve_app.tasks.transitions import Status

# Without the order of its parameters, for which SQLAlchemy would send a statement for each row.
_INSERT = insert(TASKS).returning(TASKS.c.uid, TASKS.c.seq)
_IS_DRAINING = exists().where(SERVICES.c.leads, SERVICES.c.draining)
IS_DRAINING = select(_IS_DRAINING)
"""Whether no task is taken: the leader is to stop, and no other service lives."""
_QUEUED = select(func.count()).select_from(TASKS).where(TASKS.c.status == Status.QUEUED)
_STANDING = select(_IS_DRAINING, _QUEUED.scalar_subquery())
_COUNT_QUEUED_OF = (
    select(TASKS.c.owner, func.count())
    .where(TASKS.c.status == Status.QUEUED, TASKS.c.owner.in_(bindparam("owners", expanding=True)))
    .group_by(TASKS.c.owner)
)
_RESTART_S = 30
"""Retry-After of a draining service, in seconds: about the time of a restart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A new task and its admission limits."""

    new: NewTask
    admission: Admission


class GroupCommit:
    """Inserts new tasks, those of concurrent submits in one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batching: Batching[Entry, Task] = Batching(self._commit)

    async def store(self, new: NewTask, admission: Admission) -> Task:
        """Store a task; return it once it is committed.

        Raises ``TaskExists``, ``QueueFull``, ``OverQuota`` or ``Draining``.
        """
        return await self._batching.ask(Entry(new, admission))

    async def _commit(self, group: Sequence[Entry]) -> Sequence[Task | Exception]:
        try:
            return await self._database.write_once(partial(_store, group=group))
        except IntegrityError:
            if len(group) == 1:
                return [TaskExists(f"Task ID {group[0].new.id} already exists")]
            # One id exists already, which rolls back the group: retry each task in its own transaction.
            return [answer for entry in group for answer in await self._commit([entry])]


def _store(connection: Connection, group: Sequence[Entry]) -> Sequence[Task | Exception]:
    """Insert the tasks that may be; return each one, or its refusal."""
    now = time.time()
    is_draining, queued = connection.execute(_STANDING).one()
    if is_draining:
        return [draining() for _ in group]
    refusals = _refusals(group, queued, _queued_of_owners(connection, group))
    taken = [entry for entry, refusal in zip(group, refusals, strict=True) if refusal is None]
    replaced = [
        and_(TASKS.c.id == entry.new.id, TASKS.c.owner == entry.new.owner)
        for entry in taken
        if entry.admission.replace
    ]
    if replaced:
        connection.execute(delete(TASKS).where(or_(*replaced)))
    rows = {
        entry.new.uid: values_of(entry.new, max_attempts=entry.admission.max_attempts, now=now)
        for entry in taken
    }
    seqs = connection.execute(_INSERT, list(rows.values())).all() if rows else []
    stored = {uid: task_of({**rows[uid], "seq": seq}) for uid, seq in seqs}
    return [refusal or stored[entry.new.uid] for entry, refusal in zip(group, refusals, strict=True)]


def _queued_of_owners(connection: Connection, group: Sequence[Entry]) -> Counter[str]:
    """Count the queued tasks of each owner that has a limit."""
    limited = {entry.new.owner for entry in group if entry.admission.max_queued_own is not None}
    if not limited:
        return Counter()
    rows = connection.execute(_COUNT_QUEUED_OF, {"owners": list(limited)}).all()
    return Counter({owner: count for owner, count in rows})


def draining() -> Draining:
    """Return the error of a submit to a service that is shutting down."""
    return Draining("The service is shutting down and takes no new task; try again later", _RESTART_S)


def _refusals(group: Sequence[Entry], queued: int, own: Counter[str]) -> Sequence[ServiceError | None]:
    """Return the refusal of each task of the group, or None; admitted tasks count towards the limits."""
    refusals: list[ServiceError | None] = []
    for entry in group:
        owner, terms = entry.new.owner, entry.admission
        if terms.max_queued_own is not None and own[owner] >= terms.max_queued_own:
            refusals.append(
                OverQuota(
                    f"This key has as many queued tasks as it may have ({terms.max_queued_own}); "
                    "try again later",
                    terms.own_retry_after_s,
                )
            )
        elif queued >= terms.max_queued:
            refusals.append(
                QueueFull(
                    f"Task queue is full (max {terms.max_queued} tasks); try again later", terms.retry_after_s
                )
            )
        else:
            refusals.append(None)
            queued += 1
            own[owner] += 1
    return refusals
