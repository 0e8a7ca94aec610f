"""The models that the services on a database have in their configurations, and when each was there last."""

import time
from collections.abc import Collection, Mapping

from sqlalchemy import delete, insert, select

from serve_app.store.database import Database
from serve_app.store.tables import SERVED_MODELS


class ServedModels:
    """When each model was served last, in seconds since 1970; kept across restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, models: Collection[str]) -> None:
        """Store that the models are served now."""
        rows = [{"model": model, "seen_at": time.time()} for model in sorted(models)]
        async with self._database.write_alone() as connection:
            await connection.execute(delete(SERVED_MODELS).where(SERVED_MODELS.c.model.in_(models)))
            await connection.execute(insert(SERVED_MODELS), rows)

    async def last(self) -> Mapping[str, float]:
        """Return when each model was noted last."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(SERVED_MODELS))).all()
        return {row.model: row.seen_at for row in rows}
