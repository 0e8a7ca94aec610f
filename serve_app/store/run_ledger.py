"""The coordinator's side of the task store: claims, and every later move of a run.

Two fences guard every write. The epoch: only the coordinator that took the lead last may write. The
attempt: a runner that was given up cannot touch the task of its successor.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from sqlalchemy import RowMapping, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.batching import Batching
from serve_app.store.database import Database
from serve_app.store.fair_queue import FairQueue
from serve_app.store.move_statements import MOVES, MoveStatements, RunKey, Write
from serve_app.store.rows import task_of
from serve_app.store.tables import LEADERSHIP, TASKS
from serve_app.tasks.fair_share import Shares
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.transitions import FINAL, Status

WORKER_LOST = TaskError("worker_lost", "Every replica that ran this task was lost")


class Superseded(Exception):
    """Another coordinator has taken the lead: this one must not write any more."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Queued tasks (how many) and running tasks (which), by model; a model without any has no entry."""

    queued: Mapping[str, int]
    running: Mapping[str, frozenset[str]]
    ready: Mapping[str, int]
    """Queued tasks that may run now: none beyond their owner's limit, none at all in a drain."""


_Job = Callable[[AsyncConnection], Awaitable[RowMapping | None]]
"""Writes in the transaction of a connection; answers the row that it changed, if any."""


class RunLedger:
    """Writes of one epoch. Each is committed when it returns and raises ``Superseded`` once that is over.

    Writes that come while a commit is under way share the next one: a commit waits for the disk.
    """

    moves: ClassVar[MoveStatements] = MOVES

    def __init__(self, database: Database, epoch: int, *, lease_s: float, shares: Shares) -> None:
        self._database = database
        self.epoch = epoch
        self._lease_s = lease_s
        self._queue = FairQueue(shares)
        self._draining = False
        self._writing: Batching[_Job, RowMapping | None] = Batching(self._write_all)
        # Stands in the WHERE of each write: checked by the very statement that writes.
        self._leads = exists().where(LEADERSHIP.c.epoch == epoch)

    @classmethod
    async def take_lead(
        cls, database: Database, *, lease_s: float, grace_s: float, shares: Shares | None = None
    ) -> "RunLedger":
        """Begin a new epoch. Runs that are still alive have ``grace_s`` seconds to report to it.

        ``shares`` are what the owners of tasks are due; without any it does not matter whose a task is.
        """
        async with database.write() as connection:
            new = {"epoch": LEADERSHIP.c.epoch + 1, "draining": False}
            query = update(LEADERSHIP).values(new).returning(LEADERSHIP.c.epoch)
            epoch = (await connection.execute(query)).scalar_one()
            await connection.execute(
                update(TASKS)
                .where(TASKS.c.status == Status.RUNNING)
                .values(lease_expires_at=time.time() + grace_s)
            )
        return cls(database, epoch, lease_s=lease_s, shares=shares or {})

    async def claim(self, model: str, runner: str, loras: Collection[str] = ()) -> Task | None:
        """Give ``runner`` the next task of ``model``. None: none waits that may run.

        Next is the highest priority, then the owner that has had least for its share, then the oldest;
        but of some that are almost as old, one that uses one of ``loras``.
        """
        claim = partial(self._claim, model=model, runner=runner, loras=loras)
        return _task(await self._writing.ask(claim))

    async def _claim(
        self, connection: AsyncConnection, *, model: str, runner: str, loras: Collection[str]
    ) -> RowMapping | None:
        while not self._draining and (turn := await self._queue.next(connection, model, loras)):
            now = time.time()
            claim = self.moves.claim(
                turn.taken.seq,
                self.epoch,
                runner=runner,
                started_at=now,
                lease_expires_at=now + self._lease_s,
            )
            row = await self._execute(connection, claim)
            if row is not None:
                await self._queue.charge(connection, model, turn)
                return row
            # On PostgreSQL it may have been cancelled since: then another one is first.
        await self._check_lead(connection)
        return None

    async def report(self, uid: str, attempt: int, *, step: int, progress: float) -> bool:
        """Renew the lease and record how far the run is. False: the run is over, its runner must leave."""
        lease_expires_at = time.time() + self._lease_s
        write = self.moves.report(
            self._run(uid, attempt), step=step, progress=progress, lease_expires_at=lease_expires_at
        )
        return await self._commit(write) is not None

    async def publish(
        self, uid: str, attempt: int, *, artifact: str, timings: Mapping[str, float]
    ) -> Task | None:
        """Make ``artifact`` the task's result, for ever. None: the attempt is not the current one."""
        run, now = self._run(uid, attempt), time.time()
        return _task(
            await self._commit(self.moves.publish(run, artifact=artifact, timings=timings, finished_at=now))
        )

    async def fail(self, uid: str, attempt: int, error: TaskError) -> Task | None:
        """End the task for an error of the model or the input. None: the attempt is not the current one."""
        write = self.moves.fail(self._run(uid, attempt), error, finished_at=time.time())
        return _task(await self._commit(write))

    async def give_up(self, uid: str, attempt: int) -> Task | None:
        """The runner is lost: queue the task again, or fail it if no attempt is left. None: not current."""
        return _task(await self._writing.ask(partial(self._give_up, uid=uid, attempt=attempt)))

    async def hand_back(self, uid: str, attempt: int) -> Task | None:
        """The runner stops before the end by itself: queue the task again, the attempt not counted."""
        return _task(await self._commit(self.moves.hand_back(self._run(uid, attempt))))

    async def drain(self) -> None:
        """Let nothing begin any more, under this epoch: no claim finds a task, no new task is stored."""
        await self._writing.ask(self._drain)

    async def _drain(self, connection: AsyncConnection) -> None:
        query = update(LEADERSHIP).where(LEADERSHIP.c.epoch == self.epoch).values(draining=True)
        if (await connection.execute(query)).rowcount == 0:
            await self._check_lead(connection)
        # Claims are written here one after the other: those before this one are committed with it or were.
        self._draining = True

    async def check_lead(self) -> None:
        """Raises ``Superseded`` once another coordinator leads."""
        async with self._database.read() as connection:
            await self._check_lead(connection)

    async def expire_leases(self) -> Sequence[Task]:
        """Give up every run whose lease has ended; the tasks as they stand now."""
        expired = select(TASKS.c.uid, TASKS.c.attempt).where(
            TASKS.c.status == Status.RUNNING, TASKS.c.lease_expires_at < time.time()
        )
        async with self._database.read() as connection:
            if not (await connection.execute(expired)).all():
                return []
        async with self._database.write() as connection:
            given_up = [
                await self._give_up(connection, uid=uid, attempt=attempt)
                for uid, attempt in (await connection.execute(expired)).all()
            ]
        return [task_of(row) for row in given_up if row is not None]

    async def forget_ended(self, *, before: float) -> Sequence[Task]:
        """Delete the final tasks that ended before that time (seconds since 1970); what they were."""
        ended = (TASKS.c.status.in_(FINAL), TASKS.c.finished_at < before)
        query = delete(TASKS).where(*ended, self._leads).returning(TASKS)
        async with self._database.write() as connection:
            return [task_of(row) for row in (await connection.execute(query)).mappings().all()]

    async def find(self, uid: str) -> Task | None:
        """The task as it stands."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(TASKS).where(TASKS.c.uid == uid))).mappings().first()
        return task_of(row) if row is not None else None

    async def running(self) -> Sequence[tuple[str, int]]:
        """Uid and attempt of each run."""
        query = select(TASKS.c.uid, TASKS.c.attempt).where(TASKS.c.status == Status.RUNNING)
        async with self._database.read() as connection:
            return [(uid, attempt) for uid, attempt in await connection.execute(query)]

    async def known_uids(self) -> frozenset[str]:
        """Every task there is a record of."""
        async with self._database.read() as connection:
            return frozenset((await connection.execute(select(TASKS.c.uid))).scalars())

    async def demand(self) -> Demand:
        """The queued and the running tasks of each model."""
        waiting = (
            select(TASKS.c.model, TASKS.c.owner, func.count())
            .where(TASKS.c.status == Status.QUEUED)
            .group_by(TASKS.c.model, TASKS.c.owner)
        )
        running = select(TASKS.c.model, TASKS.c.uid, TASKS.c.owner).where(TASKS.c.status == Status.RUNNING)
        async with self._database.read() as connection:
            lines = [(model, owner, count) for model, owner, count in await connection.execute(waiting)]
            runs = [(model, uid, owner) for model, uid, owner in await connection.execute(running)]
        busy = Counter(owner for _, _, owner in runs)
        queued, ready = Counter[str](), Counter[str]()
        for model, owner, count in lines:
            queued[model] += count
            ready[model] += 0 if self._draining else min(count, self._queue.room(owner, busy[owner]))
        uids = {model: frozenset(uid for name, uid, _ in runs if name == model) for model, *_ in runs}
        return Demand(queued, uids, ready)

    def _run(self, uid: str, attempt: int) -> RunKey:
        return RunKey(uid, attempt, self.epoch)

    async def _commit(self, write: Write) -> RowMapping | None:
        return await self._writing.ask(partial(self._execute, write=write))

    async def _write_all(self, jobs: Sequence[_Job]) -> Sequence[RowMapping | None]:
        async with self._database.write_alone() as connection:
            # One that raises takes the transaction back for all: an epoch is over for all of them.
            return [await job(connection) for job in jobs]

    async def _give_up(self, connection: AsyncConnection, *, uid: str, attempt: int) -> RowMapping | None:
        left = await connection.scalar(select(TASKS.c.attempts_left).where(TASKS.c.uid == uid))
        run = self._run(uid, attempt)
        write = (
            self.moves.requeue(run) if left else self.moves.lose(run, WORKER_LOST, finished_at=time.time())
        )
        return await self._execute(connection, write)

    async def _execute(self, connection: AsyncConnection, write: Write) -> RowMapping | None:
        """The row that ``write`` changed, if any. Raises ``Superseded`` if another epoch was the reason."""
        changed = await connection.execute(write.statement, write.values)
        row: RowMapping | None = changed.mappings().first()
        if row is None:
            await self._check_lead(connection)
        return row

    async def _check_lead(self, connection: AsyncConnection) -> None:
        current = await connection.scalar(select(LEADERSHIP.c.epoch))
        if current != self.epoch:
            raise Superseded(f"epoch {self.epoch} ended, {current} leads")


def _task(row: RowMapping | None) -> Task | None:
    return None if row is None else task_of(row)
