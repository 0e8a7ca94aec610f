"""The stored pauses of owners' and of models' queues."""

from sqlalchemy import ColumnElement, and_, delete, exists, insert, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.database import Database
from serve_app.store.tables import PAUSES, TASKS
from serve_app.tasks.pauses import Pauses

_ANY = ""
"""In place of a model: the pause is of an owner; in place of an owner: of a model."""

IS_NOT_HELD: ColumnElement[bool] = not_(
    exists().where(
        or_(PAUSES.c.model == TASKS.c.model, and_(PAUSES.c.model == _ANY, PAUSES.c.owner == TASKS.c.owner))
    )
)
"""Condition on a queued task: no pause holds it."""


async def read_pauses(connection: AsyncConnection) -> Pauses:
    """Return all pauses."""
    rows = (await connection.execute(select(PAUSES))).all()
    return Pauses(
        frozenset(row.owner for row in rows if row.model == _ANY),
        frozenset(row.model for row in rows if row.model != _ANY),
    )


class PauseBook:
    """Pauses and resumes queues. Both are idempotent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause_owner(self, owner: str) -> None:
        """Begin none of the owner's tasks any more."""
        await self._set(_ANY, owner, paused=True)

    async def resume_owner(self, owner: str) -> None:
        """Begin the owner's tasks again."""
        await self._set(_ANY, owner, paused=False)

    async def pause_model(self, model: str) -> None:
        """Begin no task of the model any more."""
        await self._set(model, _ANY, paused=True)

    async def resume_model(self, model: str) -> None:
        """Begin the model's tasks again."""
        await self._set(model, _ANY, paused=False)

    async def _set(self, model: str, owner: str, *, paused: bool) -> None:
        async with self._database.write_alone() as connection:
            await connection.execute(delete(PAUSES).where(PAUSES.c.model == model, PAUSES.c.owner == owner))
            if paused:
                await connection.execute(insert(PAUSES).values(model=model, owner=owner))
