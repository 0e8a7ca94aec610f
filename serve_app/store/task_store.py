"""The task store as clients see it: submit, look, cancel. Runs are written by ``RunLedger`` alone."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, bindparam, func, select, true

from serve_app.errors import IdempotencyMismatch, TaskExists, TaskNotFound
from serve_app.store.batching import Batching
from serve_app.store.database import Database
from serve_app.store.fair_queue import read_clocks
from serve_app.store.group_commit import GroupCommit
from serve_app.store.move_statements import MOVES
from serve_app.store.rows import task_of
from serve_app.store.tables import LEADERSHIP, TASKS
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import Caller
from serve_app.tasks.fair_share import FairClock
from serve_app.tasks.task import NewTask, QueuedTask, Task
from serve_app.tasks.transitions import Status

_PAGE = 500
# Newest first. An id is unique for an owner, so of one id there are at most as many as there are keys.
_BY_IDS = select(TASKS).where(TASKS.c.id.in_(bindparam("ids", expanding=True))).order_by(TASKS.c.seq.desc())


@dataclass(frozen=True, slots=True)
class _Question:
    caller: Caller
    task_id: str


class TaskStore:
    """Every method is one transaction; what it returns is committed.

    For a caller there are only the tasks it sees; of one id, its own comes first, then the newest.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group_commit = GroupCommit(database)
        self._reading: Batching[_Question, Task] = Batching(self._read)

    async def submit(self, new: NewTask, admission: Admission) -> Task:
        """Store a task and answer it, or the task that the same idempotency key made before.

        Raises ``TaskExists``, ``IdempotencyMismatch``, ``QueueFull``, ``OverQuota``, ``Draining``.
        """
        made_before = await self._by_idempotency(new)
        if made_before is not None:
            return made_before
        try:
            return await self._group_commit.store(new, admission)
        except TaskExists:
            # Of two submits with one key at once, the second finds that its key is taken by now.
            made_before = await self._by_idempotency(new)
            if made_before is not None:
                return made_before
            raise

    async def get(self, caller: Caller, task_id: str) -> Task:
        """The task of that id. Raises ``TaskNotFound``."""
        return await self._reading.ask(_Question(caller, task_id))

    async def list(
        self,
        caller: Caller,
        *,
        statuses: Sequence[Status] = tuple(Status),
        limit: int,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Tasks, newest first, at most ``limit``, older than the task ``after``. Raises ``TaskNotFound``."""
        query = (
            select(TASKS)
            .where(_seen_by(caller), TASKS.c.status.in_(statuses))
            .order_by(TASKS.c.seq.desc())
            .limit(limit)
        )
        if after is not None:
            query = query.where(TASKS.c.seq < (await self.get(caller, after)).seq)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [task_of(row) for row in rows]

    async def published_at(self, caller: Caller, save_path: str) -> Task | None:
        """The newest succeeded task that was to be saved there."""
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
        """The task, and whether this call cancelled it: the first commit wins. Raises ``TaskNotFound``."""
        task = await self.get(caller, task_id)
        cancelled = await self._cancel(TASKS.c.uid == task.uid)
        return (cancelled[0], True) if cancelled else (await self.get(caller, task_id), False)

    async def cancel_all(self, caller: Caller, *statuses: Status) -> Sequence[Task]:
        """Cancel every task that stands in one of ``statuses``; the cancelled ones."""
        return await self._cancel(_seen_by(caller), TASKS.c.status.in_(statuses or tuple(Status)))

    async def _cancel(self, *which: ColumnElement[bool]) -> Sequence[Task]:
        write = MOVES.cancel(*which, finished_at=time.time())
        async with self._database.write() as connection:
            cancelled = await connection.execute(write.statement, write.values)
            return [task_of(row) for row in cancelled.mappings().all()]

    async def queue(self) -> AsyncIterator[Sequence[QueuedTask]]:
        """Every queued task, by priority and age, in pages, so that a long queue holds up nobody."""
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
            .order_by(TASKS.c.priority.desc(), TASKS.c.seq)
        )
        async with self._database.read() as connection:
            async for page in (await connection.stream(query)).partitions(_PAGE):
                yield [QueuedTask(*row) for row in page]

    async def clocks(self) -> Mapping[str, FairClock]:
        """The fair-share clock of each model; a model without an entry is at the beginning."""
        async with self._database.read() as connection:
            return await read_clocks(connection)

    async def running(self) -> Sequence[Task]:
        """Every running task, oldest first."""
        query = select(TASKS).where(TASKS.c.status == Status.RUNNING).order_by(TASKS.c.seq)
        async with self._database.read() as connection:
            return [task_of(row) for row in (await connection.execute(query)).mappings().all()]

    async def counts(self) -> dict[Status, int]:
        """The number of stored tasks in each status."""
        query = select(TASKS.c.status, func.count()).group_by(TASKS.c.status)
        async with self._database.read() as connection:
            found = {Status(status): count for status, count in (await connection.execute(query)).all()}
        return {status: found.get(status, 0) for status in Status}

    async def is_draining(self) -> bool:
        """True while the service shuts down."""
        async with self._database.read() as connection:
            return bool(await connection.scalar(select(LEADERSHIP.c.draining)))

    async def _read(self, questions: Sequence[_Question]) -> Sequence[Task | Exception]:
        ids = list({question.task_id for question in questions})
        async with self._database.read() as connection:
            rows = (await connection.execute(_BY_IDS, {"ids": ids})).mappings().all()
        found: dict[str, list[Task]] = defaultdict(list)
        for row in rows:
            found[row["id"]].append(task_of(row))
        return [_chosen(question, found[question.task_id]) for question in questions]

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


def _seen_by(caller: Caller) -> ColumnElement[bool]:
    return true() if caller.is_admin else TASKS.c.owner == caller.name


def _chosen(question: _Question, newest_first: Sequence[Task]) -> Task | Exception:
    caller = question.caller
    seen = [task for task in newest_first if caller.sees(task.owner)]
    own = [task for task in seen if task.owner == caller.name]
    return next(iter(own or seen), TaskNotFound(f"There is no task {question.task_id}"))
