"""Group commit: submits at once share a transaction. Each is acknowledged only after it is committed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from serve_app.errors import QueueFull, TaskExists
from serve_app.tasks.batching import Batching
from serve_app.tasks.database import Database
from serve_app.tasks.rows import task_of, values_of
from serve_app.tasks.tables import TASKS
from serve_app.tasks.task import NewTask, Task
from serve_app.tasks.transitions import Status

_INSERT = insert(TASKS).returning(TASKS.c.seq, sort_by_parameter_order=True)
_COUNT_QUEUED = select(func.count()).select_from(TASKS).where(TASKS.c.status == Status.QUEUED)


@dataclass(frozen=True, slots=True)
class Admission:
    """On which terms a task is let in. ``retry_after_s`` is what a full queue tells the client."""

    max_queued: int
    max_attempts: int
    retry_after_s: int
    replace: bool = False
    """Forget the task that has the same id; its run is told to stop at its next report."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A new task and its terms."""

    new: NewTask
    admission: Admission


class GroupCommit:
    """Stores new tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batching: Batching[Entry, Task] = Batching(self._commit)

    async def store(self, new: NewTask, admission: Admission) -> Task:
        """The stored task, committed. Raises ``TaskExists``, ``QueueFull``."""
        return await self._batching.ask(Entry(new, admission))

    async def _commit(self, group: Sequence[Entry]) -> Sequence[Task | Exception]:
        try:
            return await self._transaction(group)
        except IntegrityError:
            if len(group) == 1:
                return [TaskExists(f"Task ID {group[0].new.id} already exists")]
            # One id is taken and spoils the transaction for all: now each has its own.
            return [answer for entry in group for answer in await self._commit([entry])]

    async def _transaction(self, group: Sequence[Entry]) -> Sequence[Task | Exception]:
        now = time.time()
        async with self._database.write() as connection:
            replaced = [entry.new.id for entry in group if entry.admission.replace]
            if replaced:
                await connection.execute(delete(TASKS).where(TASKS.c.id.in_(replaced)))
            queued = await connection.scalar(_COUNT_QUEUED) or 0
            rows = {
                entry.new.uid: values_of(entry.new, max_attempts=entry.admission.max_attempts, now=now)
                for place, entry in enumerate(group, queued)
                if place < entry.admission.max_queued
            }
            seqs = (await connection.execute(_INSERT, list(rows.values()))).scalars().all() if rows else []
        stored = {
            uid: task_of({**row, "seq": seq}) for (uid, row), seq in zip(rows.items(), seqs, strict=True)
        }
        return [stored.get(entry.new.uid) or _queue_full(entry.admission) for entry in group]


def _queue_full(admission: Admission) -> QueueFull:
    return QueueFull(
        f"Task queue is full (max {admission.max_queued} tasks); try again later", admission.retry_after_s
    )
