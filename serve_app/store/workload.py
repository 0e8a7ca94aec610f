"""The workload of a model: its queued and its running work, summed by the database."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import case, func, select

from serve_app.store.database import Database
from serve_app.store.tables import TASKS
from serve_app.tasks.transitions import Status


@dataclass(frozen=True, slots=True)
class Workload:
    """Work is in DiT tokens."""

    queued: int
    """Tasks."""
    queued_work: float
    capped_work: float
    """As ``queued_work``, but no task counts for more than the cap."""
    running_work: tuple[float, ...]
    """The whole work of each run."""
    left_work: tuple[float, ...]
    """The work that each run has left."""

    @classmethod
    async def of(
        cls, database: Database, model: str, *, cap: float, stopping: Collection[str] = ()
    ) -> "Workload":
        """The model's work as it stands now, without the runs of the replicas that are ``stopping``."""
        capped = case((TASKS.c.work > cap, cap), else_=TASKS.c.work)
        waiting = select(func.count(), func.sum(TASKS.c.work), func.sum(capped)).where(
            TASKS.c.status == Status.QUEUED, TASKS.c.model == model
        )
        running = select(TASKS.c.work, TASKS.c.progress).where(
            TASKS.c.status == Status.RUNNING, TASKS.c.model == model, TASKS.c.runner.not_in(stopping)
        )
        async with database.read() as connection:
            queued, work, capped_work = (await connection.execute(waiting)).one()
            runs = (await connection.execute(running)).all()
        return cls(
            queued,
            work or 0.0,
            capped_work or 0.0,
            running_work=tuple(run.work for run in runs),
            left_work=tuple((1 - run.progress) * run.work for run in runs),
        )
