"""The fair queue in the database: the first queued task of each owner, and the owners' virtual times."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.pause_book import read_pauses
from serve_app.store.tables import SHARES, TASKS
from serve_app.tasks.fair_share import FairClock, Shares, share_of
from serve_app.tasks.transitions import Status

_REORDER_WINDOW = 8
"""Most arrivals by which a task whose LoRA is cached may overtake an older task. So a task is overtaken by at
most as many others."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The first queued task of an owner, or one within the reorder window."""

    seq: int
    owner: str
    priority: int
    work: float
    place: int = 0
    """Below 0 for a task that was put first."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The next task, the heads that it was chosen from, and the clock before the choice."""

    taken: Waiting
    heads: Sequence[Waiting]
    clock: FairClock


def _first_of_each_owner() -> Select[int, str, int, float, int]:
    """Build the query for the first queued task of each owner of a model.

    Every step is one index look-up, so the cost does not grow with the length of the queue. A recursive query
    skips from each owner to the next (a loose index scan), which neither database does for a DISTINCT.
    """
    # A separate alias for each use: a subquery must not refer to the row of the enclosing query.
    owners = (
        select(func.min(TASKS.c.owner).label("owner")).where(_queued(TASKS)).cte("owners", recursive=True)
    )
    later, top, front, oldest = (TASKS.alias(name) for name in ("later", "top", "front", "oldest"))
    following = select(func.min(later.c.owner)).where(_queued(later), later.c.owner > owners.c.owner)
    owners = owners.union_all(select(following.scalar_subquery()).where(owners.c.owner.is_not(None)))
    highest = select(func.max(top.c.priority)).where(_queued(top), top.c.owner == owners.c.owner)
    foremost = select(func.min(front.c.place)).where(
        _queued(front),
        front.c.owner == owners.c.owner,
        front.c.priority == highest.correlate(owners).scalar_subquery(),
    )
    first = select(func.min(oldest.c.seq)).where(
        _queued(oldest),
        oldest.c.owner == owners.c.owner,
        oldest.c.priority == highest.correlate(owners).scalar_subquery(),
        oldest.c.place == foremost.correlate(owners).scalar_subquery(),
    )
    return select(TASKS.c.seq, TASKS.c.owner, TASKS.c.priority, TASKS.c.work, TASKS.c.place).join(
        owners, TASKS.c.seq == first.correlate(owners).scalar_subquery()
    )


def _queued(tasks: FromClause) -> ColumnElement[bool]:
    return and_(tasks.c.status == Status.QUEUED, tasks.c.model == bindparam("model"))


_HEADS = _first_of_each_owner()
_WITH_CACHED_LORA = (
    select(TASKS.c.seq, TASKS.c.owner, TASKS.c.priority, TASKS.c.work)
    .where(
        _queued(TASKS),
        TASKS.c.owner == bindparam("owner"),
        TASKS.c.priority == bindparam("priority"),
        # an index range
        TASKS.c.seq.between(bindparam("first"), bindparam("last")),
        TASKS.c.spec["lora_name"].as_string().in_(bindparam("loras", expanding=True)),
    )
    .order_by(TASKS.c.seq)
    .limit(1)
)
_CLOCK = select(SHARES).where(SHARES.c.model == bindparam("model"))
_RUNNING = select(TASKS.c.owner, func.count()).where(TASKS.c.status == Status.RUNNING).group_by(TASKS.c.owner)


class FairQueue:
    """Chooses the next task of a model by fair share, and stores the owners' virtual times.

    Without ``shares`` owners are not distinguished, and no virtual times are stored.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._limited = any(share.max_running is not None for share in shares.values())

    async def next(self, connection: AsyncConnection, model: str, loras: Collection[str] = ()) -> Turn | None:
        """Choose the next task; return None if every owner is at its limit, paused or without a queued task.

        A task of the same owner and priority within the reorder window goes first if it uses one of
        ``loras``, the LoRAs that the replica has cached; but not before a task that was put first.
        """
        rows = (await connection.execute(_HEADS, {"model": model})).all()
        heads = [Waiting(*row) for row in rows]
        if heads:
            pauses = await read_pauses(connection)
            heads = [head for head in heads if not pauses.hold(head.owner, model)]
        if self._limited:
            room = await self.rooms(connection)
            heads = [head for head in heads if room(head.owner) > 0]
        if not heads:
            return None
        clock = FairClock()
        if self._shares:
            clock = _clock_of((await connection.execute(_CLOCK, {"model": model})).all())
        first = min(heads, key=clock.key)
        overtake = loras and first.place == 0
        cached = await _with_cached_lora(connection, model, first, loras) if overtake else None
        return Turn(cached or first, heads, clock)

    async def charge(self, connection: AsyncConnection, model: str, turn: Turn) -> None:
        """Charge the claimed work to its owner's virtual time; reset the clock of an empty queue."""
        if not self._shares:
            return
        if len(turn.heads) == 1 and not await _has_queued(connection, model):
            await connection.execute(delete(SHARES).where(SHARES.c.model == model))
            return
        owner = turn.taken.owner
        after = turn.clock.after(turn.heads, turn.taken, share_of(self._shares, owner))
        values = {"virtual_time": after.times[owner], "clock": after.now}
        if owner in turn.clock.times:
            row = and_(SHARES.c.model == model, SHARES.c.owner == owner)
            await connection.execute(update(SHARES).where(row).values(values))
        else:
            await connection.execute(insert(SHARES).values(model=model, owner=owner, **values))

    async def rooms(self, connection: AsyncConnection) -> Callable[[str], int]:
        """Return what tells how many more tasks of an owner may run."""
        running = await _running(connection) if self._limited else {}

        def room(owner: str) -> int:
            limit = share_of(self._shares, owner).max_running
            return sys.maxsize if limit is None else max(0, limit - running.get(owner, 0))

        return room


async def read_clocks(connection: AsyncConnection) -> Mapping[str, FairClock]:
    """Return the stored fair-share clock of each model; a model without one has no entry."""
    rows = (await connection.execute(select(SHARES))).all()
    return {
        model: _clock_of([row for row in rows if row.model == model]) for model in {row.model for row in rows}
    }


def _clock_of(rows: Sequence[Row[Any]]) -> FairClock:
    return FairClock(
        max((row.clock for row in rows), default=0.0), {row.owner: row.virtual_time for row in rows}
    )


async def _with_cached_lora(
    connection: AsyncConnection, model: str, first: Waiting, loras: Collection[str]
) -> Waiting | None:
    values = {
        "model": model,
        "owner": first.owner,
        "priority": first.priority,
        "first": first.seq,
        "last": first.seq + _REORDER_WINDOW,
        "loras": list(loras),
    }
    row = (await connection.execute(_WITH_CACHED_LORA, values)).first()
    return Waiting(*row) if row is not None else None


async def _running(connection: AsyncConnection) -> Mapping[str, int]:
    """Count each owner's running tasks of all models."""
    return {owner: count for owner, count in (await connection.execute(_RUNNING)).all()}


async def _has_queued(connection: AsyncConnection, model: str) -> bool:
    waits = select(exists().where(TASKS.c.status == Status.QUEUED, TASKS.c.model == model))
    return bool(await connection.scalar(waits))
