"""Leadership: which of the services on a database leads, and under which fences their coordinators write.

A service is what lives and ends as one: a Ray cluster, or an application in it. The one that was started
later has the higher generation. The leader gives out all waiting tasks and ends those whose time is over; a
service that does not lead goes on with the runs that it has. Within a service each coordinator has an epoch
of its own, so that one that was replaced can write nothing.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.tables import SERVICES

Epoch: TypeAlias = int | BindParameter[int]

_RENEWALS = 4
"""Times that a service is written to be alive in each lease."""


class Superseded(Exception):
    """Another coordinator has taken this one's place in its service: writes of its epoch are rejected."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A coordinator's place among the services, as it stood when it was last looked at."""

    epoch: int
    generation: int
    leads: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """What a coordinator says of its service: it is there at ``now``, and to be counted on for a lease."""

    now: float
    lease_s: float
    is_ready: bool
    """Whether its models are loaded."""

    def holds(self) -> ColumnElement[bool]:
        """Return the part of a WHERE that is true for services that live, by this one's clock, and stay."""
        return and_(SERVICES.c.seen_at >= self.now - self.lease_s, not_(SERVICES.c.draining))


def coordinates(epoch: Epoch) -> ColumnElement[bool]:
    """Return the part of a WHERE that is true for the coordinator of ``epoch`` until it is replaced."""
    return exists().where(SERVICES.c.epoch == epoch)


def leads(epoch: Epoch) -> ColumnElement[bool]:
    """Return the part of a WHERE that is true for the coordinator of ``epoch`` while its service leads."""
    return exists().where(SERVICES.c.epoch == epoch, SERVICES.c.leads)


def has_coordinator(
    generation: ColumnElement[int | None], *, since: BindParameter[float]
) -> ColumnElement[bool]:
    """Return the part of a WHERE that is true for a service whose coordinator has said so ``since`` then."""
    return exists().where(SERVICES.c.generation == generation, SERVICES.c.seen_at >= since)


# Made once: they are asked each second, and making them takes longer than their answer.
_IS_OF_EPOCH = SERVICES.c.epoch == bindparam("epoch")
_SEAT = select(SERVICES.c.epoch, SERVICES.c.generation, SERVICES.c.leads).where(_IS_OF_EPOCH)
_OWN_AND_LIVING = select(SERVICES).where(
    or_(_IS_OF_EPOCH, and_(SERVICES.c.seen_at >= bindparam("since"), not_(SERVICES.c.draining)))
)


async def seat_of(connection: AsyncConnection, epoch: int) -> Seat:
    """Return the seat of the coordinator of ``epoch``. Raises ``Superseded``."""
    row = (await connection.execute(_SEAT, {"epoch": epoch})).first()
    if row is None:
        raise Superseded(f"epoch {epoch} ended: its service has another coordinator")
    return Seat(*row)


async def take_seat(connection: AsyncConnection, service: str, presence: Presence) -> Seat:
    """Become the coordinator of ``service``, which gets the highest generation if it has none.

    Like every write of seats this needs a transaction of ``Database.write_alone``.
    """
    epoch = 1 + (await connection.scalar(select(func.max(SERVICES.c.epoch))) or 0)
    query = select(SERVICES.c.ready).where(SERVICES.c.name == service)
    was_ready = await connection.scalar(query)
    values: dict[str, Any] = {"epoch": epoch, "seen_at": presence.now, "draining": False}
    values["ready"] = bool(was_ready) or presence.is_ready
    if was_ready is None:
        await connection.execute(insert(SERVICES).values(name=service, leads=False, **values))
    else:
        await connection.execute(update(SERVICES).where(SERVICES.c.name == service).values(values))
    await _elect(connection, presence)
    return await seat_of(connection, epoch)


def kept_seat(connection: Connection, epoch: int, presence: Presence) -> Seat | None:
    """Return the seat of the coordinator of ``epoch``; None where it is to be kept first, for it was not of
    late, is gone, or another one is to lead.
    """
    values = {"epoch": epoch, "since": presence.now - presence.lease_s}
    rows = connection.execute(_OWN_AND_LIVING, values).all()
    own = next((row for row in rows if row.epoch == epoch), None)
    due_at = presence.now - presence.lease_s / _RENEWALS
    if own is None or own.seen_at < due_at or own.ready < presence.is_ready:
        return None
    best = max((row for row in rows if not row.draining), key=_rank, default=None)
    if best is not None and not best.leads:
        return None
    return Seat(own.epoch, own.generation, own.leads)


async def keep_seat(connection: AsyncConnection, epoch: int, presence: Presence) -> Seat:
    """Write that the service of ``epoch`` lives, and have the best of those that live lead.

    Raises ``Superseded``.
    """
    values = {"seen_at": presence.now, **({"ready": True} if presence.is_ready else {})}
    await connection.execute(update(SERVICES).where(SERVICES.c.epoch == epoch).values(values))
    await _elect(connection, presence)
    return await seat_of(connection, epoch)


async def leave_seat(connection: AsyncConnection, epoch: int, presence: Presence) -> Seat:
    """Have another service lead, if one lives, since that of ``epoch`` is to stop. Raises ``Superseded``."""
    await connection.execute(update(SERVICES).where(SERVICES.c.epoch == epoch).values(draining=True))
    await _elect(connection, presence)
    return await seat_of(connection, epoch)


async def _elect(connection: AsyncConnection, presence: Presence) -> None:
    """Have the newest service lead of those that live, are ready and are not to stop.

    One whose models are still loading leads only where no other does; where none lives, nothing changes.
    """
    query = select(SERVICES).where(presence.holds())
    best = max((await connection.execute(query)).all(), key=_rank, default=None)
    if best is not None and not best.leads:
        await connection.execute(update(SERVICES).values(leads=SERVICES.c.generation == best.generation))


def _rank(row: Row[Any]) -> tuple[bool, int]:
    return row.ready, row.generation
