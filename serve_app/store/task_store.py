"""The clients' side of the task store: submit, read, cancel and forget. Only ``RunLedger`` writes runs."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, or_, select, true, update

from serve_app.errors import IdempotencyMismatch, TaskExists, TaskNotFound
from serve_app.store.batching import Batching
from serve_app.store.database import Database
from serve_app.store.fair_queue import read_clocks
from serve_app.store.group_commit import IS_DRAINING, GroupCommit
from serve_app.store.move_statements import MOVES, Write
from serve_app.store.outbox import announce
from serve_app.store.pause_book import read_pauses
from serve_app.store.rows import task_of
from serve_app.store.tables import TASKS
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import Caller
from serve_app.tasks.fair_share import FairClock
from serve_app.tasks.pauses import Pauses
from serve_app.tasks.task import NewTask, QueuedTask, Task, TaskVersion
from serve_app.tasks.transitions import FINAL, Status

_PAGE = 500
_LOOKED_AT_S = 10.0
"""Seconds for which previews are made after somebody has looked at one."""
# Newest first. An id is unique per owner, so one id has at most as many rows as there are API keys.
_BY_IDS = select(TASKS).where(TASKS.c.id.in_(bindparam("ids", expanding=True))).order_by(TASKS.c.seq.desc())


@dataclass(frozen=True, slots=True)
class _Lookup:
    caller: Caller
    task_id: str


class TaskStore:
    """Submits, reads, cancels and forgets tasks. Methods return committed state.

    A caller has access only to the tasks that it sees. Among tasks with the same id, the caller's own task
    comes first, then the newest.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group_commit = GroupCommit(database)
        self._reading: Batching[_Lookup, Task] = Batching(self._read)

    async def submit(self, new: NewTask, admission: Admission) -> Task:
        """Store and return a task, or return the earlier task with the same idempotency key.

        Raises ``TaskExists``, ``IdempotencyMismatch``, ``QueueFull``, ``OverQuota`` or ``Draining``.
        """
        earlier = await self._by_idempotency(new)
        if earlier is not None:
            return earlier
        try:
            return await self._group_commit.store(new, admission)
        except TaskExists:
            # Two concurrent submits with one key: the second one finds the first one's task.
            earlier = await self._by_idempotency(new)
            if earlier is not None:
                return earlier
            raise

    async def get(self, caller: Caller, task_id: str) -> Task:
        """Return the task with that id. Raises ``TaskNotFound``."""
        return await self._reading.ask(_Lookup(caller, task_id))

    async def list(
        self,
        caller: Caller,
        *,
        statuses: Sequence[Status] = tuple(Status),
        limit: int,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> Sequence[Task]:
        """Return at most ``limit`` tasks, newest first, that come after the task with id ``after``.

        Raises ``TaskNotFound`` for an unknown ``after``.
        """
        seq = TASKS.c.seq
        query = (
            select(TASKS)
            .where(_seen_by(caller), TASKS.c.status.in_(statuses))
            .order_by(seq if oldest_first else seq.desc())
            .limit(limit)
        )
        if after is not None:
            last = (await self.get(caller, after)).seq
            query = query.where(seq > last if oldest_first else seq < last)
        return await self._tasks(query)

    async def published_at(self, caller: Caller, save_path: str) -> Task | None:
        """Return the newest succeeded task with that public path, or None."""
        query = (
            select(TASKS)
            .where(_seen_by(caller), TASKS.c.save_path == save_path, TASKS.c.status == Status.SUCCEEDED)
            .order_by(TASKS.c.seq.desc())
            .limit(1)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        return task_of(row) if row is not None else None

    async def cancel(self, caller: Caller, task_id: str) -> tuple[Task, bool]:
        """Cancel a task; return the task, and True if this call cancelled it: the first commit wins.

        Raises ``TaskNotFound``.
        """
        task = await self.get(caller, task_id)
        cancelled = await self._cancel(TASKS.c.uid == task.uid)
        return (cancelled[0], True) if cancelled else (await self.get(caller, task_id), False)

    async def forget(self, uid: str) -> Task | None:
        """Delete a task in a final state; return it, or None if there is no such task."""
        query = delete(TASKS).where(TASKS.c.uid == uid, TASKS.c.status.in_(FINAL)).returning(TASKS)
        async with self._database.write() as connection:
            row = (await connection.execute(query)).mappings().first()
        return task_of(row) if row is not None else None

    async def reorder(self, caller: Caller, task_id: str, priority: int) -> tuple[Task, bool]:
        """Give a queued task another priority; return it, and whether it was still queued.

        Raises ``TaskNotFound``.
        """
        task = await self.get(caller, task_id)
        return await self._move(caller, task, MOVES.reorder(task.uid, priority=priority))

    async def put_first(self, caller: Caller, task_id: str) -> tuple[Task, bool]:
        """Put a queued task before all others of its owner and model; return it, and whether it was queued.

        Raises ``TaskNotFound``.
        """
        task = await self.get(caller, task_id)
        # Whichever is put first later comes earlier.
        return await self._move(caller, task, MOVES.put_first(task.uid, place=-time.time_ns() // 1000))

    async def finish_early(self, caller: Caller, task_id: str) -> tuple[Task, bool]:
        """Have a run end with what it has made; return the task, and whether it was running.

        Raises ``TaskNotFound``.
        """
        task = await self.get(caller, task_id)
        return await self._move(caller, task, MOVES.finish_early(task.uid))

    async def want_previews(self, task: Task) -> None:
        """Note that somebody looks at a running task; that lapses after some seconds."""
        now = time.time()
        if (task.previews_until or 0.0) > now + _LOOKED_AT_S / 2:
            return
        running = TASKS.c.uid == task.uid, TASKS.c.status == Status.RUNNING
        query = update(TASKS).where(*running).values(previews_until=now + _LOOKED_AT_S)
        async with self._database.write() as connection:
            await connection.execute(query)

    async def _move(self, caller: Caller, task: Task, write: Write) -> tuple[Task, bool]:
        async with self._database.write() as connection:
            row = (await connection.execute(write.statement, write.values)).mappings().first()
        return (task_of(row), True) if row is not None else (await self.get(caller, task.id), False)

    async def cancel_all(self, caller: Caller, *statuses: Status) -> Sequence[Task]:
        """Cancel every task in one of ``statuses``; return the cancelled tasks."""
        return await self._cancel(_seen_by(caller), TASKS.c.status.in_(statuses or tuple(Status)))

    async def _cancel(self, *which: ColumnElement[bool]) -> Sequence[Task]:
        write = MOVES.cancel(*which, finished_at=time.time())
        # Alone: it and the coordinator's reports of many runs could each hold a row that the other waits for.
        async with self._database.write_alone() as connection:
            cancelled = (await connection.execute(write.statement, write.values)).mappings().all()
            await announce(connection, cancelled)
        return [task_of(row) for row in cancelled]

    async def queue(self) -> AsyncIterator[Sequence[QueuedTask]]:
        """Yield all queued tasks by priority, place and age, in pages that do not block the event loop."""
        columns = (
            TASKS.c.id,
            TASKS.c.model,
            TASKS.c.owner,
            TASKS.c.priority,
            TASKS.c.seq,
            TASKS.c.work,
            TASKS.c.tokens,
        )
        query = (
            select(*columns)
            .where(TASKS.c.status == Status.QUEUED)
            .order_by(TASKS.c.priority.desc(), TASKS.c.place, TASKS.c.seq)
        )
        async with self._database.read() as connection:
            async for page in (await connection.stream(query)).partitions(_PAGE):
                yield [QueuedTask(*row) for row in page]

    async def versions(self, newer_than: int) -> tuple[Sequence[TaskVersion], int]:
        """Return the versions of all unended tasks and of those with a ``seq`` above ``newer_than``.

        Also returns the largest ``seq`` among them, ``newer_than`` if there is none.
        """
        columns = TASKS.c.uid, TASKS.c.owner, TASKS.c.version, TASKS.c.seq
        unended = TASKS.c.status.in_((Status.QUEUED, Status.RUNNING))
        query = select(*columns).where(or_(unended, TASKS.c.seq > newer_than))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        newest = max((row.seq for row in rows), default=newer_than)
        return [TaskVersion(row.uid, row.owner, row.version) for row in rows], max(newest, newer_than)

    async def newest_seq(self) -> int:
        """Return the ``seq`` of the newest task, 0 without tasks."""
        async with self._database.read() as connection:
            return await connection.scalar(select(func.max(TASKS.c.seq))) or 0

    async def of_uids(self, caller: Caller, uids: Sequence[str]) -> Sequence[Task]:
        """Return those of these tasks that the caller sees, oldest first."""
        query = select(TASKS).where(_seen_by(caller), TASKS.c.uid.in_(uids)).order_by(TASKS.c.seq)
        return await self._tasks(query)

    async def ended_since(self, caller: Caller, time: float, *, limit: int) -> Sequence[Task]:
        """Return at most ``limit`` tasks that ended after ``time``, in seconds since 1970, oldest first."""
        query = (
            select(TASKS)
            .where(_seen_by(caller), TASKS.c.finished_at > time)
            .order_by(TASKS.c.finished_at)
            .limit(limit)
        )
        return await self._tasks(query)

    async def clocks(self) -> Mapping[str, FairClock]:
        """Return the fair-share clock of each model; a model without an entry has a new clock."""
        async with self._database.read() as connection:
            return await read_clocks(connection)

    async def pauses(self) -> Pauses:
        """Return the paused queues."""
        async with self._database.read() as connection:
            return await read_pauses(connection)

    async def running(self) -> Sequence[Task]:
        """Return all running tasks, oldest first."""
        return await self._tasks(select(TASKS).where(TASKS.c.status == Status.RUNNING).order_by(TASKS.c.seq))

    async def counts(self) -> dict[Status, int]:
        """Return the number of stored tasks in each status."""
        query = select(TASKS.c.status, func.count()).group_by(TASKS.c.status)
        async with self._database.read() as connection:
            found = {Status(status): count for status, count in (await connection.execute(query)).all()}
        return {status: found.get(status, 0) for status in Status}

    async def is_draining(self) -> bool:
        """Return True while no task is taken: the service is to stop, and no other is there to go on."""
        async with self._database.read() as connection:
            return bool(await connection.scalar(IS_DRAINING))

    async def _read(self, questions: Sequence[_Lookup]) -> Sequence[Task | Exception]:
        ids = {question.task_id for question in questions}
        found = await self._database.read_once(partial(_of_ids, ids=ids))
        return [_chosen(question, found.get(question.task_id, ())) for question in questions]

    async def _tasks(self, query: Select[Any]) -> Sequence[Task]:
        async with self._database.read() as connection:
            return [task_of(row) for row in (await connection.execute(query)).mappings().all()]

    async def _by_idempotency(self, new: NewTask) -> Task | None:
        if new.idempotency_key is None:
            return None
        query = select(TASKS).where(
            TASKS.c.owner == new.owner, TASKS.c.idempotency_key == new.idempotency_key
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        if row["digest"] != new.digest:
            raise IdempotencyMismatch("This Idempotency-Key was used before with another request body")
        return task_of(row)


def _of_ids(connection: Connection, ids: Collection[str]) -> Mapping[str, Sequence[Task]]:
    """Return the tasks of each of these ids, newest first."""
    found: dict[str, list[Task]] = defaultdict(list)
    for row in connection.execute(_BY_IDS, {"ids": list(ids)}).mappings().all():
        found[row["id"]].append(task_of(row))
    return found


def _seen_by(caller: Caller) -> ColumnElement[bool]:
    return true() if caller.is_admin else TASKS.c.owner == caller.name


def _chosen(question: _Lookup, newest_first: Sequence[Task]) -> Task | Exception:
    caller = question.caller
    seen = [task for task in newest_first if caller.sees(task.owner)]
    own = [task for task in seen if task.owner == caller.name]
    return next(iter(own or seen), TaskNotFound(f"There is no task {question.task_id}"))
