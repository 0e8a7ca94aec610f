"""Leadership: the epoch under which a coordinator writes, checked with each of its writes."""

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.tables import LEADERSHIP


class Superseded(Exception):
    """Another coordinator has taken the lead: writes of this one's epoch are rejected."""


def leads(epoch: int) -> ColumnElement[bool]:
    """Return the part of a WHERE that makes the check of the epoch and the write atomic."""
    return exists().where(LEADERSHIP.c.epoch == epoch)


async def require_lead(connection: AsyncConnection, epoch: int) -> None:
    """Raise ``Superseded`` unless the coordinator of ``epoch`` leads."""
    current = await connection.scalar(select(LEADERSHIP.c.epoch))
    if current != epoch:
        raise Superseded(f"epoch {epoch} ended, {current} leads")
