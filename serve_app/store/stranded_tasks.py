"""Stranded tasks: those that wait for a model, or for a LoRA, that was taken out of the configuration."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.database import Database
from serve_app.store.leadership import seat_of
from serve_app.store.move_statements import MOVES, Write
from serve_app.store.outbox import announce
from serve_app.store.rows import task_of
from serve_app.store.tables import TASKS
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.transitions import Status

_PAGE = 100
"""Most tasks that are settled in one transaction."""
_IS_QUEUED = TASKS.c.status == Status.QUEUED
_LORAS = TASKS.c.spec["lora_name"].as_string()


@dataclass(frozen=True, slots=True)
class Reassignment:
    """The model that makes a task's video in place of its own, and what follows from that."""

    model: str
    work: float
    tokens: int
    notes: tuple[str, ...]
    """All notes of the task, that on the change among them."""


Settlement: TypeAlias = Reassignment | TaskError | None
"""What becomes of a stranded task: another model makes it, it fails, or it goes on waiting."""


class StrandedTasks:
    """The leader's writes to tasks that wait for a model that it does not have."""

    def __init__(self, database: Database, epoch: int) -> None:
        """``epoch``: the number of the coordinator that writes."""
        self._database = database
        self._epoch = epoch

    async def counts(self, *, but: Collection[str]) -> Mapping[str, int]:
        """Return how many tasks wait for each model that is none of ``but``."""
        query = (
            select(TASKS.c.model, func.count())
            .where(_IS_QUEUED, TASKS.c.model.not_in(but))
            .group_by(TASKS.c.model)
        )
        async with self._database.read() as connection:
            return {model: count for model, count in await connection.execute(query)}

    async def models_with_loras(self) -> Sequence[str]:
        """Return the models for which tasks wait that use LoRAs."""
        query = select(TASKS.c.model).where(_IS_QUEUED, _LORAS.is_not(None)).distinct()
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalars().all()

    async def settle(
        self, model: str, decide: Callable[[Task], Settlement], *, with_loras: bool = False
    ) -> Sequence[Task]:
        """Do as ``decide`` says with each task that waits for ``model``; return those that were changed.

        ``with_loras``: of those that use LoRAs alone. Raises ``Superseded``.
        """
        which = (_LORAS.is_not(None),) if with_loras else ()
        changed: list[Task] = []
        after = 0
        while True:
            query = (
                select(TASKS)
                .where(_IS_QUEUED, TASKS.c.model == model, TASKS.c.seq > after, *which)
                .order_by(TASKS.c.seq)
                .limit(_PAGE)
            )
            async with self._database.write_alone() as connection:
                page = [task_of(row) for row in (await connection.execute(query)).mappings().all()]
                for task in page:
                    changed += await self._settle(connection, task, decide(task))
            if len(page) < _PAGE:
                return changed
            after = page[-1].seq

    async def _settle(
        self, connection: AsyncConnection, task: Task, settlement: Settlement
    ) -> Sequence[Task]:
        if settlement is None:
            return []
        write = self._write(task, settlement)
        row = (await connection.execute(write.statement, write.values)).mappings().first()
        if row is None:  # cancelled meanwhile, or this service does not lead any more
            await seat_of(connection, self._epoch)
            return []
        if isinstance(settlement, TaskError):
            await announce(connection, [row])
        return [task_of(row)]

    def _write(self, task: Task, settlement: Reassignment | TaskError) -> Write:
        if isinstance(settlement, TaskError):
            return MOVES.strand(task.uid, settlement, epoch=self._epoch, finished_at=time.time())
        return MOVES.reassign(
            task.uid,
            epoch=self._epoch,
            model=settlement.model,
            work=settlement.work,
            tokens=settlement.tokens,
            notes=settlement.notes,
        )
