"""The fleet: the replicas with a recent heartbeat, and the measured rate of each model."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, RowMapping, Table, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.database import Database
from serve_app.store.tables import RATES, REPLICAS, SCALES, SHAPE_RATES
from serve_app.tasks.moving_average import updated_average
from serve_app.tasks.replica import ENDED, Health, Replica, Scale

_ENDED_S = 60.0
"""How long a failed replica stays listed."""


class Fleet:
    """Kept in the store so that every ingress replica sees the same, also after a restart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def saw(self, *replicas: Replica) -> None:
        """Note that these are there."""
        ids = [replica.replica_id for replica in replicas]
        async with self._database.write() as connection:
            await connection.execute(delete(REPLICAS).where(REPLICAS.c.replica_id.in_(ids)))
            await connection.execute(insert(REPLICAS), [asdict(replica) for replica in replicas])

    async def gone(self, *, unseen_for_s: float) -> None:
        """Forget the replicas not heard of for so long."""
        async with self._database.write() as connection:
            await connection.execute(delete(REPLICAS).where(REPLICAS.c.seen_at < time.time() - unseen_for_s))

    async def replicas(self, *, seen_within_s: float) -> Sequence[Replica]:
        """The replicas heard of in the last seconds, and those that came to a bad end a little longer."""
        now = time.time()
        ended = and_(REPLICAS.c.health.in_(ENDED), REPLICAS.c.seen_at >= now - _ENDED_S)
        query = select(REPLICAS).where(or_(REPLICAS.c.seen_at >= now - seen_within_s, ended))
        async with self._database.read() as connection:
            return [_replica(row) for row in (await connection.execute(query)).mappings().all()]

    async def learn(self, model: str, seconds_per_work: float, tokens: int = 0) -> None:
        """Let one finished run move the measured rates (exponential moving averages).

        There is one for the model, and one for its videos of so many ``tokens``: attention costs a token
        more, the more of them there are.
        """
        async with self._database.write() as connection:
            await _move(connection, RATES, {"model": model}, seconds_per_work)
            if tokens:
                await _move(connection, SHAPE_RATES, {"model": model, "tokens": tokens}, seconds_per_work)

    async def rates(self) -> Mapping[str, float]:
        """Measured seconds per unit of work of each model that has finished a run."""
        async with self._database.read() as connection:
            return {
                row.model: row.seconds_per_work for row in (await connection.execute(select(RATES))).all()
            }

    async def note_scale(self, scale: Scale) -> None:
        """Note how many replicas a model is to have."""
        values = {"wanted": scale.wanted, "failing": scale.failing}
        async with self._database.write() as connection:
            known = await connection.execute(
                update(SCALES).where(SCALES.c.model == scale.model).values(values)
            )
            if known.rowcount == 0:
                await connection.execute(insert(SCALES).values(model=scale.model, **values))

    async def forget_scales(self, *, but: Collection[str]) -> None:
        """Forget those of models that do not scale any more."""
        async with self._database.write() as connection:
            await connection.execute(delete(SCALES).where(SCALES.c.model.not_in(but)))

    async def scales(self) -> Mapping[str, Scale]:
        """The scale of each model that scales, as noted last."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(SCALES))).mappings().all()
        return {row["model"]: Scale(**row) for row in rows}

    async def shape_rates(self) -> Mapping[tuple[str, int], float]:
        """Measured seconds per unit of work, by model and by the tokens of a forward."""
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
