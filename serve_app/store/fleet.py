"""The fleet: the replicas with a recent heartbeat, and the measured rate of each model."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.database import Database
from serve_app.store.tables import RATES, REPLICAS, SCALES, SHAPE_RATES
from serve_app.tasks.moving_average import updated_average
from serve_app.tasks.replica import ENDED, Health, Replica, Scale

_ENDED_S = 60.0
"""Seconds for which a failed replica stays listed."""


class Fleet:
    """Stored replicas, rates and scales, shared by all services on the database and kept across restarts.

    What is read before it is written, or deleted before it is inserted, is written alone: two services, or
    two coordinators of one, may come at once with the first row of a model or of a replica.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def saw(self, *replicas: Replica) -> None:
        """Store the heartbeats of replicas."""
        ids = [replica.replica_id for replica in replicas]

        def put(connection: Connection) -> None:
            connection.execute(delete(REPLICAS).where(REPLICAS.c.replica_id.in_(ids)))
            connection.execute(insert(REPLICAS), [asdict(replica) for replica in replicas])

        await self._database.write_alone_once(put)

    async def gone(self, *, unseen_for_s: float) -> None:
        """Delete the replicas without a heartbeat in the last ``unseen_for_s`` seconds."""
        async with self._database.write() as connection:
            await connection.execute(delete(REPLICAS).where(REPLICAS.c.seen_at < time.time() - unseen_for_s))

    async def replicas(self, *, seen_within_s: float) -> Sequence[Replica]:
        """Return the replicas with a heartbeat in the last ``seen_within_s`` seconds.

        Failed replicas stay listed for at least a minute.
        """
        now = time.time()
        ended = and_(REPLICAS.c.health.in_(ENDED), REPLICAS.c.seen_at >= now - _ENDED_S)
        query = select(REPLICAS).where(or_(REPLICAS.c.seen_at >= now - seen_within_s, ended))
        rows = await self._database.read_once(lambda connection: connection.execute(query).mappings().all())
        return [_replica(row) for row in rows]

    async def learn(self, model: str, seconds_per_work: float, tokens: int = 0) -> None:
        """Update the measured rates (exponential moving averages) with one finished run.

        The model has one rate for all videos, and one for each number of ``tokens``, because the cost of
        attention per token grows with their number.
        """
        async with self._database.write_alone() as connection:
            await _move(connection, RATES, {"model": model}, seconds_per_work)
            if tokens:
                await _move(connection, SHAPE_RATES, {"model": model, "tokens": tokens}, seconds_per_work)

    async def rates(self) -> Mapping[str, float]:
        """Return the measured seconds per unit of work of each model that has finished a run."""
        rows = await self._database.read_once(lambda connection: connection.execute(select(RATES)).all())
        return {row.model: row.seconds_per_work for row in rows}

    async def note_scale(self, scale: Scale) -> None:
        """Store the target number of replicas of a model."""
        values = {"wanted": scale.wanted, "failing": scale.failing}
        async with self._database.write_alone() as connection:
            known = await connection.execute(
                update(SCALES).where(SCALES.c.model == scale.model).values(values)
            )
            if known.rowcount == 0:
                await connection.execute(insert(SCALES).values(model=scale.model, **values))

    async def forget_scales(self, *, but: Collection[str]) -> None:
        """Delete the scales of all models except ``but``, those that still have autoscaling."""
        async with self._database.write() as connection:
            await connection.execute(delete(SCALES).where(SCALES.c.model.not_in(but)))

    async def scales(self) -> Mapping[str, Scale]:
        """Return the latest stored scale of each model with autoscaling."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(SCALES))).mappings().all()
        return {row["model"]: Scale(**row) for row in rows}

    async def shape_rates(self) -> Mapping[tuple[str, int], float]:
        """Return the measured seconds per unit of work, by model and tokens of a forward."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(SHAPE_RATES))).all()
        return {(row.model, row.tokens): row.seconds_per_work for row in rows}


def _replica(row: RowMapping) -> Replica:
    return Replica(**{**row, "health": Health(row["health"])})


async def _move(
    connection: AsyncConnection, table: Table, key: Mapping[str, str | int], newest: float
) -> None:
    where: list[ColumnElement[bool]] = [table.c[name] == value for name, value in key.items()]
    row = (await connection.execute(select(table).where(*where))).mappings().first()
    if row is None:
        values = {**key, "seconds_per_work": newest, "samples": 1}
        await connection.execute(insert(table).values(values))
        return
    average = updated_average(row["seconds_per_work"], newest)
    await connection.execute(
        update(table).where(*where).values(seconds_per_work=average, samples=row["samples"] + 1)
    )
