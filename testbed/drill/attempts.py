"""Attempts of tasks, as the database has them: those that were used up, and the runs that a service has."""

from collections.abc import Mapping

from sqlalchemy import select

from serve_app.store.database import Database
from serve_app.store.tables import TASKS
from serve_app.tasks.transitions import Status


async def attempts_lost(database_url: str, max_attempts: int, killed: Mapping[str, int] | None = None) -> int:
    """Return how many attempts all tasks together have used up beside the last one of each.

    ``killed``: by uid the runs whose processes were killed, each of which may use up one.
    """
    database = Database(database_url)
    async with database.read() as connection:
        rows = (await connection.execute(select(TASKS.c.uid, TASKS.c.attempts_left))).all()
    await database.close()
    excused = killed or {}
    return sum(max(0, max_attempts - 1 - left - excused.get(uid, 0)) for uid, left in rows)


async def runs_of(database_url: str, generation: int) -> list[str]:
    """Return the uid of each task that runs in the service of that generation."""
    database = Database(database_url)
    query = select(TASKS.c.uid).where(TASKS.c.status == Status.RUNNING, TASKS.c.generation == generation)
    async with database.read() as connection:
        found = list((await connection.execute(query)).scalars())
    await database.close()
    return found
