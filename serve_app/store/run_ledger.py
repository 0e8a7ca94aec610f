"""The coordinator's side of the task store: claims, and every later move of a run.

Two fencing tokens guard every write. The epoch: only the current coordinator of a service may write, and
only the one whose service leads may begin a run. The attempt: a runner whose run was given up cannot change
the task after another runner has claimed it.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from sqlalchemy import RowMapping, and_, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.batching import Batching
from serve_app.store.database import Database
from serve_app.store.fair_queue import FairQueue
from serve_app.store.leadership import (
    Presence,
    Seat,
    coordinates,
    is_due,
    keep_seat,
    leads,
    leave_seat,
    seat_of,
    take_seat,
)
from serve_app.store.move_statements import MOVES, MoveStatements, RunKey, Write
from serve_app.store.outbox import announce
from serve_app.store.pause_book import read_pauses
from serve_app.store.rows import task_of
from serve_app.store.tables import TASKS
from serve_app.tasks.command import Command
from serve_app.tasks.fair_share import Shares
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.transitions import FINAL, Status

WORKER_LOST = TaskError("worker_lost", "Every replica that ran this task was lost")
_LEAST_SEAT_LEASE_S = 3.0
"""A coordinator keeps its seat once a second."""
EXPIRED = TaskError("expired", "The task had not begun when its deadline came")


@dataclass(frozen=True, slots=True)
class Demand:
    """Queued and running tasks by model; a model without any has no entry."""

    queued: Mapping[str, int]
    """Number of queued tasks."""
    running: Mapping[str, frozenset[str]]
    """Uids of the running tasks of this service."""
    ready: Mapping[str, int]
    """Number of queued tasks within their owner's limit of running tasks; 0 during a drain or a pause, and
    where another service leads.
    """
    oldest: Mapping[str, float]
    """When the oldest ready task was submitted, in seconds since 1970; a model without any has no entry."""
    runners: frozenset[str]
    """Ids of the replicas that run a task."""


_Job = Callable[[AsyncConnection], Awaitable[RowMapping | None]]
"""A write in the transaction of a connection; returns the changed row, if any."""


class RunLedger:
    """Writes of one coordinator. A method returns after its commit, and raises ``Superseded`` once another
    coordinator has come in its place.

    Writes that arrive during a commit share the next one (group commit), since each commit waits for the
    disk.
    """

    moves: ClassVar[MoveStatements] = MOVES

    def __init__(self, database: Database, seat: Seat, *, lease_s: float, shares: Shares) -> None:
        self._database = database
        self._seat = seat
        self._lease_s = lease_s
        self._queue = FairQueue(shares)
        self._draining = False
        self._writing: Batching[_Job, RowMapping | None] = Batching(self._write_all)

    @classmethod
    async def take_lead(
        cls,
        database: Database,
        *,
        service: str = "",
        is_ready: bool = True,
        lease_s: float,
        grace_s: float,
        shares: Shares | None = None,
    ) -> "RunLedger":
        """Begin a new epoch of ``service`` and return its ledger; lead, unless a newer service does.

        Runs of this service have ``grace_s`` seconds to report to it. ``is_ready``: whether its models are
        loaded; before that another service may go on to lead. ``lease_s``: seconds of a lease, of runs and of
        services. ``shares``: the owners' fair shares; without any, owners are not distinguished.
        """
        async with database.write_alone() as connection:
            seat = await take_seat(connection, service, _presence(lease_s, is_ready))
            await connection.execute(
                update(TASKS)
                .where(TASKS.c.status == Status.RUNNING, TASKS.c.generation == seat.generation)
                .values(lease_expires_at=time.time() + grace_s)
            )
        return cls(database, seat, lease_s=lease_s, shares=shares or {})

    @property
    def seat(self) -> Seat:
        """This coordinator's place among the services, as it stood when ``keep_seat`` looked."""
        return self._seat

    @property
    def epoch(self) -> int:
        """The number of this coordinator."""
        return self._seat.epoch

    async def keep_seat(self, *, is_ready: bool) -> Seat:
        """Say that this service lives, and find out whether it leads. Raises ``Superseded``.

        To be called several times in each lease; ``is_ready`` as for ``take_lead``.
        """
        presence = _presence(self._lease_s, is_ready)
        async with self._database.read() as connection:
            if not await is_due(connection, self.epoch, presence):
                self._seat = await seat_of(connection, self.epoch)
                return self._seat
        async with self._database.write_alone() as connection:
            self._seat = await keep_seat(connection, self.epoch, presence)
        return self._seat

    async def excuse(self, grace_s: float) -> None:
        """Give the runs of this service ``grace_s`` seconds to report, after the store was away."""
        due = time.time() + grace_s
        silent = and_(TASKS.c.status == Status.RUNNING, TASKS.c.lease_expires_at < due)
        async with self._database.write() as connection:
            await connection.execute(
                update(TASKS)
                .where(silent, TASKS.c.generation == self._seat.generation, coordinates(self.epoch))
                .values(lease_expires_at=due)
            )

    async def claim(self, model: str, runner: str, loras: Collection[str] = ()) -> Task | None:
        """Claim the next task of ``model`` for ``runner``; return None if no queued task may run here.

        The order is priority, then fair share, then age; among tasks of almost the same age, a task that uses
        one of ``loras`` goes first. Raises ``Superseded``.
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
                self._seat,
                runner=runner,
                started_at=now,
                lease_expires_at=now + self._lease_s,
            )
            row = await self._execute(connection, claim)
            if row is not None:
                await self._queue.charge(connection, model, turn)
                return row
            self._seat = await seat_of(connection, self.epoch)
            if not self._seat.leads:
                return None
            # On PostgreSQL the task may have been cancelled in the meantime: choose again.
        await seat_of(connection, self.epoch)
        return None

    async def report(self, uid: str, attempt: int, report: RunReport) -> Command:
        """Renew the lease and record the progress; return what the runner is to do. Raises ``Superseded``."""
        write = self.moves.report(
            self._run(uid, attempt), report, lease_expires_at=time.time() + self._lease_s
        )
        # A report changes nothing that anybody is told of.
        row = await self._writing.ask(partial(self._write, write=write))
        if row is None:
            return Command.LEAVE
        return _command(row)

    async def publish(self, uid: str, attempt: int, result: RunResult) -> Task | None:
        """Commit the result of the task; return None if the attempt is not current. Raises ``Superseded``."""
        write = self.moves.publish(self._run(uid, attempt), result, finished_at=time.time())
        return _task(await self._commit(write))

    async def fail(self, uid: str, attempt: int, error: TaskError) -> Task | None:
        """End the task with an error of the model or the input; return None if the attempt is not current.

        Raises ``Superseded``.
        """
        write = self.moves.fail(self._run(uid, attempt), error, finished_at=time.time())
        return _task(await self._commit(write))

    async def give_up(self, uid: str, attempt: int) -> Task | None:
        """Queue the task of a lost runner again, or fail it if no attempt is left.

        Returns None if the attempt is not current. Raises ``Superseded``.
        """
        return _task(await self._writing.ask(partial(self._give_up, uid=uid, attempt=attempt)))

    async def hand_back(self, uid: str, attempt: int) -> Task | None:
        """Queue a task again whose runner stops before the end, without counting the attempt.

        Returns None if the attempt is not current. Raises ``Superseded``.
        """
        return _task(await self._commit(self.moves.hand_back(self._run(uid, attempt))))

    async def drain(self) -> None:
        """Begin the drain: in this epoch no further task is claimed, nor any stored unless another service
        goes on. Raises ``Superseded``.
        """
        await self._writing.ask(self._drain)

    async def _drain(self, connection: AsyncConnection) -> None:
        self._seat = await leave_seat(connection, self.epoch, _presence(self._lease_s, is_ready=True))
        # Writes are serialized: claims before this one are in this transaction or already committed.
        self._draining = True

    async def expire_leases(self) -> Sequence[Task]:
        """Give up the runs of any service with an expired lease; return the tasks. Raises ``Superseded``."""
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

    async def expire_waiting(self) -> Sequence[Task]:
        """Fail every queued task whose deadline has passed; return the tasks. Raises ``Superseded``."""
        now = time.time()
        overdue = select(exists().where(TASKS.c.status == Status.QUEUED, TASKS.c.expires_at <= now))
        async with self._database.read() as connection:
            if not await connection.scalar(overdue):
                return []
        write = self.moves.expire(EXPIRED, epoch=self.epoch, finished_at=now)
        async with self._database.write() as connection:
            expired = (await connection.execute(write.statement, write.values)).mappings().all()
            await announce(connection, expired)
            if not expired:
                await seat_of(connection, self.epoch)
        return [task_of(row) for row in expired]

    async def forget_ended(self, *, before: float) -> Sequence[Task]:
        """Delete and return the final tasks that ended before ``before`` (seconds since 1970)."""
        ended = (TASKS.c.status.in_(FINAL), TASKS.c.finished_at < before)
        query = delete(TASKS).where(*ended, leads(self.epoch)).returning(TASKS)
        async with self._database.write() as connection:
            return [task_of(row) for row in (await connection.execute(query)).mappings().all()]

    async def find(self, uid: str) -> Task | None:
        """Return the task with that uid, or None."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(TASKS).where(TASKS.c.uid == uid))).mappings().first()
        return task_of(row) if row is not None else None

    async def running(self) -> Sequence[tuple[str, int]]:
        """Return the uid and attempt of each running task of this service."""
        query = select(TASKS.c.uid, TASKS.c.attempt).where(
            TASKS.c.status == Status.RUNNING, TASKS.c.generation == self._seat.generation
        )
        async with self._database.read() as connection:
            return [(uid, attempt) for uid, attempt in await connection.execute(query)]

    async def known_uids(self) -> frozenset[str]:
        """Return the uids of all stored tasks."""
        async with self._database.read() as connection:
            return frozenset((await connection.execute(select(TASKS.c.uid))).scalars())

    async def unended_uids(self) -> frozenset[str]:
        """Return the uids of all tasks that wait or run."""
        query = select(TASKS.c.uid).where(TASKS.c.status.in_([Status.QUEUED, Status.RUNNING]))
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def demand(self) -> Demand:
        """Return the queued tasks of each model, and those that run in this service."""
        waiting = (
            select(TASKS.c.model, TASKS.c.owner, func.count(), func.min(TASKS.c.created_at))
            .where(TASKS.c.status == Status.QUEUED)
            .group_by(TASKS.c.model, TASKS.c.owner)
        )
        of_runs = (TASKS.c.model, TASKS.c.uid, TASKS.c.owner, TASKS.c.runner, TASKS.c.generation)
        running = select(*of_runs).where(TASKS.c.status == Status.RUNNING)
        async with self._database.read() as connection:
            lines = (await connection.execute(waiting)).all()
            runs = (await connection.execute(running)).all()
            pauses = await read_pauses(connection)
        busy = Counter(run.owner for run in runs)
        own = [run for run in runs if run.generation == self._seat.generation]
        queued, ready, oldest = Counter[str](), Counter[str](), dict[str, float]()
        for model, owner, count, since in lines:
            queued[model] += count
            begins = self._seat.leads and not self._draining and not pauses.hold(owner, model)
            room = min(count, self._queue.room(owner, busy[owner])) if begins else 0
            ready[model] += room
            if room > 0:
                oldest[model] = min(since, oldest.get(model, since))
        uids = {run.model: frozenset(each.uid for each in own if each.model == run.model) for run in own}
        return Demand(queued, uids, ready, oldest, frozenset(run.runner for run in runs))

    def _run(self, uid: str, attempt: int) -> RunKey:
        return RunKey(uid, attempt, self.epoch)

    async def _commit(self, write: Write) -> RowMapping | None:
        return await self._writing.ask(partial(self._execute, write=write))

    async def _write_all(self, jobs: Sequence[_Job]) -> Sequence[RowMapping | None]:
        async with self._database.write_alone() as connection:
            # An exception rolls back all jobs of the batch: an ended epoch ends for all of them.
            return [await job(connection) for job in jobs]

    async def _give_up(self, connection: AsyncConnection, *, uid: str, attempt: int) -> RowMapping | None:
        left = await connection.scalar(select(TASKS.c.attempts_left).where(TASKS.c.uid == uid))
        run = self._run(uid, attempt)
        write = (
            self.moves.requeue(run) if left else self.moves.lose(run, WORKER_LOST, finished_at=time.time())
        )
        return await self._execute(connection, write)

    async def _execute(self, connection: AsyncConnection, write: Write) -> RowMapping | None:
        """Execute ``write`` and store its messages; return the changed row, if any. Raises ``Superseded``."""
        row = await self._write(connection, write)
        if row is not None:
            await announce(connection, [row])
        return row

    async def _write(self, connection: AsyncConnection, write: Write) -> RowMapping | None:
        """Execute ``write``; return the changed row, if any. Raises ``Superseded`` if the epoch has ended."""
        changed = await connection.execute(write.statement, write.values)
        row: RowMapping | None = changed.mappings().first()
        if row is None:
            await seat_of(connection, self.epoch)  # which raises if the row was kept by its fence
        return row


def _presence(lease_s: float, is_ready: bool) -> Presence:
    return Presence(time.time(), max(lease_s, _LEAST_SEAT_LEASE_S), is_ready)


def _command(row: RowMapping) -> Command:
    command = Command.GO_ON
    if row["finish_early"]:
        command |= Command.FINISH
    if (row["previews_until"] or 0.0) > time.time():
        command |= Command.SHOW
    return command


def _task(row: RowMapping | None) -> Task | None:
    return None if row is None else task_of(row)
