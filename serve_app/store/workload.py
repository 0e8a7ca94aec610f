"""The workload of a model: its queued and running work, summed by the database."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, func, select

from serve_app.store.database import Database
from serve_app.store.leadership import Seat
from serve_app.store.pause_book import IS_NOT_HELD
from serve_app.store.tables import TASKS
from serve_app.tasks.transitions import Status

_OF_MODEL = TASKS.c.model == bindparam("model")
_CAP = bindparam("cap", type_=TASKS.c.work.type)
# Made once: an idle service asks each second, and making them takes longer than their answer.
_WAITING = select(
    func.count(), func.sum(TASKS.c.work), func.sum(case((TASKS.c.work > _CAP, _CAP), else_=TASKS.c.work))
).where(TASKS.c.status == Status.QUEUED, _OF_MODEL, IS_NOT_HELD)
_RUNNING = select(TASKS.c.work, TASKS.c.progress).where(
    TASKS.c.status == Status.RUNNING,
    _OF_MODEL,
    TASKS.c.generation == bindparam("generation"),
    TASKS.c.runner.not_in(bindparam("stopping", expanding=True)),
)


@dataclass(frozen=True, slots=True)
class Workload:
    """Queued and running work of a model in one service, without paused tasks, in units of ``Task.work``."""

    queued: int
    """Number of queued tasks."""
    queued_work: float
    capped_work: float
    """Queued work with each task capped."""
    running_work: tuple[float, ...]
    """Total work of each run."""
    left_work: tuple[float, ...]
    """Remaining work of each run."""

    @classmethod
    async def of(
        cls, database: Database, model: str, *, cap: float, seat: Seat, stopping: Collection[str] = ()
    ) -> "Workload":
        """Query the model's work in the service of ``seat``, to which all waits while it leads.

        Runs on ``stopping`` replicas are left out. ``cap``: largest work of a task.
        """
        values = {"model": model, "cap": cap, "generation": seat.generation, "stopping": list(stopping)}

        def look(connection: Connection) -> tuple[tuple[Any, ...], Sequence[Row[Any, Any]]]:
            waiting = connection.execute(_WAITING, values).one() if seat.leads else (0, None, None)
            return tuple(waiting), connection.execute(_RUNNING, values).all()

        (queued, work, capped_work), runs = await database.read_once(look)
        return cls(
            queued,
            work or 0.0,
            capped_work or 0.0,
            running_work=tuple(run.work for run in runs),
            left_work=tuple((1 - run.progress) * run.work for run in runs),
        )
