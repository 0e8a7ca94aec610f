"""Receivers of messages and videos that have refused some: they are left alone for a while, or disabled."""

from collections.abc import Sequence

from sqlalchemy import Column, Exists, and_, bindparam, delete, exists, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.leadership import leads
from serve_app.store.tables import UPLOADS, WEBHOOK_ENDPOINTS, WEBHOOKS

_ENDPOINT = WEBHOOK_ENDPOINTS.c.endpoint
NOW = bindparam("now", type_=WEBHOOK_ENDPOINTS.c.rests_until.type)


def is_resting(endpoint: Column[str]) -> Exists:
    """Return the condition that the receiver of that column asked to be left alone beyond ``NOW``."""
    return exists().where(endpoint == _ENDPOINT, WEBHOOK_ENDPOINTS.c.rests_until > NOW)


async def disabled(connection: AsyncConnection, endpoints: set[str]) -> set[str]:
    """Return those of ``endpoints`` to which nothing is sent until a client asks for it."""
    query = select(_ENDPOINT).where(_ENDPOINT.in_(endpoints), WEBHOOK_ENDPOINTS.c.disabled)
    return set((await connection.execute(query)).scalars())


async def note(connection: AsyncConnection, endpoint: str, **values: bool | float) -> None:
    """Store that a receiver is ``disabled``, or that it ``rests_until`` a time."""
    known = update(WEBHOOK_ENDPOINTS).where(_ENDPOINT.in_([endpoint]))
    if (await connection.execute(known.values(values))).rowcount == 0:
        first = {"endpoint": endpoint, "disabled": False, "rests_until": 0.0}
        await connection.execute(insert(WEBHOOK_ENDPOINTS).values({**first, **values}))


async def forget_unused(connection: AsyncConnection, epoch: int) -> None:
    """Delete the receivers to which there is nothing to send, while this epoch's service leads."""
    used: Sequence[Exists] = [exists().where(table.c.endpoint == _ENDPOINT) for table in (WEBHOOKS, UPLOADS)]
    unused = and_(*(not_(each) for each in used))
    await connection.execute(delete(WEBHOOK_ENDPOINTS).where(unused, leads(epoch)))
