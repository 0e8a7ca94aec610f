"""The task store as clients see it: submit, look, cancel. Runs are written by ``RunLedger`` alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Integer, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.errors import IdempotencyMismatch, QueueFull, TaskExists, TaskNotFound
from serve_app.tasks.database import Database
from serve_app.tasks.rows import task_of, values_of
from serve_app.tasks.tables import TASKS
from serve_app.tasks.task import NewTask, QueuedTask, Task
from serve_app.tasks.transitions import TRANSITIONS, Move, Status

# Made once, since a submit spends more on composing it than on running it. Inserts nothing into a full queue.
_COLUMNS = [column for column in TASKS.c if column is not TASKS.c.seq]
_QUEUED = select(func.count()).select_from(TASKS).where(TASKS.c.status == Status.QUEUED).scalar_subquery()
_INSERT = (
    insert(TASKS)
    .from_select(
        [column.name for column in _COLUMNS],
        select(*(bindparam(column.name, type_=column.type) for column in _COLUMNS)).where(
            bindparam("max_queued", type_=Integer()) > _QUEUED
        ),
    )
    .returning(TASKS.c.seq)
)


@dataclass(frozen=True, slots=True)
class Admission:
    """On which terms a task is let in. ``retry_after_s`` is what a full queue tells the client."""

    max_queued: int
    max_attempts: int
    retry_after_s: int


class TaskStore:
    """Every method is one transaction; what it returns is committed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, new: NewTask, admission: Admission, *, replace: bool = False) -> Task:
        """Store a task and answer it, or the task that the same idempotency key made before.

        ``replace``: a task of the same id is forgotten, its run told to stop at its next report.
        Raises ``TaskExists``, ``IdempotencyMismatch``, ``QueueFull``.
        """
        try:
            return await self._insert(new, admission, replace=replace)
        except IntegrityError as error:
            # Of two submits at once the second comes here: its id, or its idempotency key, is taken by now.
            async with self._database.read() as connection:
                made_before = await _by_idempotency(connection, new)
            if made_before is not None:
                return made_before
            raise TaskExists(f"Task ID {new.id} already exists") from error

    async def _insert(self, new: NewTask, admission: Admission, *, replace: bool) -> Task:
        async with self._database.write() as connection:
            made_before = await _by_idempotency(connection, new)
            if made_before is not None:
                return made_before
            if replace:
                await connection.execute(delete(TASKS).where(TASKS.c.id == new.id))
            values = values_of(new, max_attempts=admission.max_attempts, now=time.time())
            seq = await connection.scalar(_INSERT, {**values, "max_queued": admission.max_queued})
            if seq is None:
                raise QueueFull(
                    f"Task queue is full (max {admission.max_queued} tasks); try again later",
                    admission.retry_after_s,
                )
            return task_of({**values, "seq": seq})

    async def get(self, task_id: str) -> Task:
        """The task of that id. Raises ``TaskNotFound``."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(TASKS).where(TASKS.c.id == task_id))).mappings().first()
        if row is None:
            raise TaskNotFound(f"There is no task {task_id}")
        return task_of(row)

    async def list(
        self, *, statuses: Sequence[Status] = tuple(Status), limit: int, after: str | None = None
    ) -> Sequence[Task]:
        """Tasks, newest first, at most ``limit``, older than the task ``after``. Raises ``TaskNotFound``."""
        query = select(TASKS).where(TASKS.c.status.in_(statuses)).order_by(TASKS.c.seq.desc()).limit(limit)
        if after is not None:
            query = query.where(TASKS.c.seq < (await self.get(after)).seq)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [task_of(row) for row in rows]

    async def published_at(self, save_path: str) -> Task | None:
        """The newest succeeded task that was to be saved there."""
        query = (
            select(TASKS)
            .where(TASKS.c.save_path == save_path, TASKS.c.status == Status.SUCCEEDED)
            .order_by(TASKS.c.seq.desc())
            .limit(1)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        return task_of(row) if row is not None else None

    async def cancel(self, task_id: str) -> tuple[Task, bool]:
        """The task, and whether this call cancelled it: the first commit wins. Raises ``TaskNotFound``."""
        task = await self.get(task_id)
        cancelled = await self._cancel(uid=task.uid)
        return (cancelled[0], True) if cancelled else (await self.get(task_id), False)

    async def cancel_all(self, *statuses: Status) -> Sequence[Task]:
        """Cancel every task that stands in one of ``statuses``; the cancelled ones."""
        return await self._cancel(statuses=statuses)

    async def _cancel(self, *, uid: str | None = None, statuses: Sequence[Status] = ()) -> Sequence[Task]:
        transition = TRANSITIONS[Move.CANCEL]
        query = (
            update(TASKS)
            .where(
                TASKS.c.status.in_(
                    transition.sources.intersection(statuses) if statuses else transition.sources
                )
            )
            .values(status=transition.target, finished_at=time.time(), lease_expires_at=None)
            .returning(TASKS)
        )
        if uid is not None:
            query = query.where(TASKS.c.uid == uid)
        async with self._database.write() as connection:
            return [task_of(row) for row in (await connection.execute(query)).mappings().all()]

    async def queue(self) -> Sequence[QueuedTask]:
        """Every queued task in the order it will be taken."""
        columns = (TASKS.c.id, TASKS.c.model, TASKS.c.priority, TASKS.c.seq, TASKS.c.work)
        query = (
            select(*columns)
            .where(TASKS.c.status == Status.QUEUED)
            .order_by(TASKS.c.priority.desc(), TASKS.c.seq)
        )
        async with self._database.read() as connection:
            return [QueuedTask(*row) for row in (await connection.execute(query)).all()]

    async def running(self) -> Sequence[Task]:
        """Every running task, oldest first."""
        query = select(TASKS).where(TASKS.c.status == Status.RUNNING).order_by(TASKS.c.seq)
        async with self._database.read() as connection:
            return [task_of(row) for row in (await connection.execute(query)).mappings().all()]

    async def counts(self) -> dict[Status, int]:
        """How many tasks the store holds in each status."""
        query = select(TASKS.c.status, func.count()).group_by(TASKS.c.status)
        async with self._database.read() as connection:
            found = {Status(status): count for status, count in (await connection.execute(query)).all()}
        return {status: found.get(status, 0) for status in Status}


async def _by_idempotency(connection: AsyncConnection, new: NewTask) -> Task | None:
    if new.idempotency_key is None:
        return None
    query = select(TASKS).where(TASKS.c.owner == new.owner, TASKS.c.idempotency_key == new.idempotency_key)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        return None
    if row["digest"] != new.digest:
        raise IdempotencyMismatch("This Idempotency-Key was used before with another request body")
    return task_of(row)
