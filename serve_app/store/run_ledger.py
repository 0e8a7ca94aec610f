"""The coordinator's side of the task store: claims, and every later move of a run.

Two fencing tokens guard every write. The epoch: only the current coordinator of a service may write, and
only the one whose service leads may begin a run. The attempt: a runner whose run was given up cannot change
the task after another runner has claimed it.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

from sqlalchemy import Row, RowMapping, and_, bindparam, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.batching import Batching
from serve_app.store.database import Database
from serve_app.store.demand import ANY_QUEUED, NONE_WAITING, Demand, Waiting, read_demand, read_waiting
from serve_app.store.fair_queue import FairQueue
from serve_app.store.heard_runs import HeardRuns
from serve_app.store.leadership import (
    Presence,
    Seat,
    coordinates,
    has_coordinator,
    keep_seat,
    kept_seat,
    leads,
    leave_seat,
    seat_of,
    take_seat,
)
from serve_app.store.move_statements import MOVES, MoveStatements, RunKey, Write
from serve_app.store.outbox import announce
from serve_app.store.rows import task_of
from serve_app.store.tables import TASKS
from serve_app.tasks.command import Command
from serve_app.tasks.fair_share import Shares
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.transitions import FINAL, TRANSITIONS, Move, Status

WORKER_LOST = TaskError("worker_lost", "Every replica that ran this task was lost")
_LEAST_SEAT_LEASE_S = 3.0
"""A coordinator keeps its seat once a second."""
_MOST_REPORTS = 500
_REPORTS_EVERY_S = 0.05
"""Least time between two commits of reports: a run goes on meanwhile, so they may gather."""
_REPORTED = select(
    TASKS.c.uid, TASKS.c.attempt, TASKS.c.status, TASKS.c.finish_early, TASKS.c.previews_until
).where(TASKS.c.uid.in_(bindparam("uids", expanding=True)))
# Made once: they are asked each second, and making them takes longer than their answer.
_EXPIRED_LEASES = select(TASKS.c.uid, TASKS.c.attempt, TASKS.c.phase).where(
    TASKS.c.status == Status.RUNNING,
    TASKS.c.lease_expires_at < bindparam("now"),
    or_(
        has_coordinator(TASKS.c.generation, since=bindparam("heard_since")),
        TASKS.c.lease_expires_at < bindparam("a_lease_ago"),
    ),
)
_OVERDUE = select(exists().where(TASKS.c.status == Status.QUEUED, TASKS.c.expires_at <= bindparam("now")))
EXPIRED = TaskError("expired", "The task had not begun when its deadline came")


_Report: TypeAlias = tuple[str, int, RunReport]
"""Uid, attempt and what the runner tells."""
_Job = Callable[[AsyncConnection], Awaitable[RowMapping | None]]
"""A write in the transaction of a connection; returns the changed row, if any."""


class RunLedger:
    """Writes of one coordinator. A method returns after its commit, and raises ``Superseded`` once another
    coordinator has come in its place.

    Writes that arrive during a commit share the next one (group commit), since each commit waits for the
    disk. Reports, by far the most, share their statements too.
    """

    moves: ClassVar[MoveStatements] = MOVES

    def __init__(self, database: Database, seat: Seat, *, lease_s: float, shares: Shares) -> None:
        self._database = database
        self._seat = seat
        self._lease_s = lease_s
        self._queue = FairQueue(shares)
        self._draining = False
        self._heard = HeardRuns(lease_s)
        self._writing: Batching[_Job, RowMapping | None] = Batching(self._write_all)
        self._reporting: Batching[_Report, Command] = Batching(
            self._report_all, largest=_MOST_REPORTS, every_s=_REPORTS_EVERY_S
        )

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
        kept = await self._database.read_once(partial(kept_seat, epoch=self.epoch, presence=presence))
        if kept is None:
            async with self._database.write_alone() as connection:
                kept = await keep_seat(connection, self.epoch, presence)
        self._seat = kept
        return kept

    async def excuse(self, grace_s: float) -> None:
        """Give the runs of this service ``grace_s`` seconds to report, after the store was away."""
        due = time.time() + grace_s
        silent = and_(TASKS.c.status == Status.RUNNING, TASKS.c.lease_expires_at < due)
        async with self._database.write_alone() as connection:
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
        task = _task(await self._writing.ask(claim))
        if task is not None:
            self._heard.hear(task.uid, task.attempt)
        return task

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
        self._heard.hear(uid, attempt)
        return await self._reporting.ask((uid, attempt, report))

    async def _report_all(self, reports: Sequence[_Report]) -> Sequence[Command]:
        lease_expires_at = time.time() + self._lease_s
        writes = [
            self.moves.report(self._run(uid, attempt), report, lease_expires_at=lease_expires_at)
            for uid, attempt, report in reports
        ]
        async with self._database.write_alone() as connection:
            # A report changes nothing that anybody is told of.
            await connection.execute(writes[0].statement, [write.values for write in writes])
            uids = [uid for uid, _, _ in reports]
            rows = {row.uid: row for row in await connection.execute(_REPORTED, {"uids": uids})}
            await seat_of(connection, self.epoch)  # which raises if the fence has kept the rows
        return [_command(rows.get(uid), attempt) for uid, attempt, _ in reports]

    async def publish(self, uid: str, attempt: int, result: RunResult) -> Task | None:
        """Commit the result of the task; return None if the attempt is not current. Raises ``Superseded``."""
        self._heard.hear(uid, attempt)
        write = self.moves.publish(self._run(uid, attempt), result, finished_at=time.time())
        return _task(await self._commit(write))

    async def fail(self, uid: str, attempt: int, error: TaskError) -> Task | None:
        """End the task with an error of the model or the input; return None if the attempt is not current.

        Raises ``Superseded``.
        """
        self._heard.hear(uid, attempt)
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
        self._heard.hear(uid, attempt)
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
        """Give up the runs of any service with an expired lease; return the tasks. Raises ``Superseded``.

        Not those whose runner has spoken within a lease, of which the database does not know yet. Runs of
        a service whose coordinator is away, and so can renew none, have a lease more for it to come back.
        Attempts that no runner has said to have begun are not counted, unless one was given its task here.
        """
        now = time.time()
        expired = {
            "now": now,
            "heard_since": now - _presence(self._lease_s, True).lease_s / 2,
            "a_lease_ago": now - self._lease_s,
        }
        rows = await self._database.read_once(lambda reader: reader.execute(_EXPIRED_LEASES, expired).all())
        if not self._silent(rows):
            return []
        async with self._database.write_alone() as connection:
            given_up = [
                await self._give_up(
                    connection,
                    uid=uid,
                    attempt=attempt,
                    was_run=bool(phase) or self._heard.knows(uid, attempt),
                )
                for uid, attempt, phase in self._silent(
                    (await connection.execute(_EXPIRED_LEASES, expired)).all()
                )
            ]
        return [task_of(row) for row in given_up if row is not None]

    async def expire_waiting(self) -> Sequence[Task]:
        """Fail every queued task whose deadline has passed; return the tasks. Raises ``Superseded``."""
        now = time.time()
        if not await self._database.read_once(lambda connection: connection.scalar(_OVERDUE, {"now": now})):
            return []
        write = self.moves.expire(EXPIRED, epoch=self.epoch, finished_at=now)
        async with self._database.write_alone() as connection:
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

    async def still_running(self, uids: Collection[str]) -> frozenset[str]:
        """Return those of the tasks that are running, in any service."""
        query = select(TASKS.c.uid).where(TASKS.c.uid.in_(uids), TASKS.c.status == Status.RUNNING)
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def waiting(self) -> Waiting:
        """Return the queued tasks of each model."""
        if not await self._database.read_once(lambda connection: connection.scalar(ANY_QUEUED)):
            return NONE_WAITING
        async with self._database.read() as connection:
            return await read_waiting(connection, self._queue, begins=self._begins)

    async def demand(self) -> Demand:
        """Return the queued tasks of each model, and those that run in this service."""
        generation = self._seat.generation
        async with self._database.read() as connection:
            return await read_demand(connection, self._queue, begins=self._begins, generation=generation)

    @property
    def _begins(self) -> bool:
        return self._seat.leads and not self._draining

    def _silent(self, expired: Sequence[Row[str, int, str]]) -> Sequence[Row[str, int, str]]:
        return [run for run in expired if not self._heard.has(run.uid, run.attempt)]

    def _run(self, uid: str, attempt: int) -> RunKey:
        return RunKey(uid, attempt, self.epoch)

    async def _commit(self, write: Write) -> RowMapping | None:
        return await self._writing.ask(partial(self._execute, write=write))

    async def _write_all(self, jobs: Sequence[_Job]) -> Sequence[RowMapping | None]:
        async with self._database.write_alone() as connection:
            # An exception rolls back all jobs of the batch: an ended epoch ends for all of them.
            return [await job(connection) for job in jobs]

    async def _give_up(
        self, connection: AsyncConnection, *, uid: str, attempt: int, was_run: bool = True
    ) -> RowMapping | None:
        run = self._run(uid, attempt)
        if not was_run:
            return await self._execute(connection, self.moves.hand_back(run))
        left = await connection.scalar(select(TASKS.c.attempts_left).where(TASKS.c.uid == uid))
        write = (
            self.moves.requeue(run) if left else self.moves.lose(run, WORKER_LOST, finished_at=time.time())
        )
        return await self._execute(connection, write)

    async def _execute(self, connection: AsyncConnection, write: Write) -> RowMapping | None:
        """Execute ``write`` and store its messages; return the changed row, if any. Raises ``Superseded``."""
        row = (await connection.execute(write.statement, write.values)).mappings().first()
        if row is None:
            await seat_of(connection, self.epoch)  # which raises if the row was kept by its fence
        else:
            await announce(connection, [row])
        return row


def _presence(lease_s: float, is_ready: bool) -> Presence:
    return Presence(time.time(), max(lease_s, _LEAST_SEAT_LEASE_S), is_ready)


def _command(row: Row[Any, Any, Any, Any, Any] | None, attempt: int) -> Command:
    """Return what the attempt is to do, by the row of its task after its report."""
    if row is None or row.attempt != attempt or row.status not in TRANSITIONS[Move.REPORT].sources:
        return Command.LEAVE
    command = Command.GO_ON
    if row.finish_early:
        command |= Command.FINISH
    if (row.previews_until or 0.0) > time.time():
        command |= Command.SHOW
    return command


def _task(row: RowMapping | None) -> Task | None:
    return None if row is None else task_of(row)
