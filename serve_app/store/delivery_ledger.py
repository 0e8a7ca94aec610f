"""The coordinator's side of the outbox: which messages are due, and what became of each attempt."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import and_, bindparam, delete, exists, func, not_, select, update

from serve_app.store import receivers
from serve_app.store.database import Database
from serve_app.store.leadership import coordinates, leads, seat_of
from serve_app.store.outbox import DISABLED, delivery_of
from serve_app.store.rows import task_of
from serve_app.store.tables import TASKS, UPLOADS, WEBHOOKS
from serve_app.store.uploads import uploads_of
from serve_app.tasks.task import Task
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Delivery, DeliveryState, EventType

# A task that was replaced by another of its id leaves its messages to the janitor.
_IS_ABOUT_A_TASK = exists().where(TASKS.c.uid == WEBHOOKS.c.task_uid)
_AWAITED_ATTEMPTS = 3
"""Attempts at an upload that the message of its task's end waits for: they take some minutes."""
_AWAITS_ITS_UPLOAD = and_(
    WEBHOOKS.c.type == EventType.SUCCEEDED,
    exists().where(
        UPLOADS.c.task_uid == WEBHOOKS.c.task_uid,
        UPLOADS.c.next_at.is_not(None),
        UPLOADS.c.attempts < _AWAITED_ATTEMPTS,
    ),
)

# Made once: it is asked each second, and making it takes longer than its answer.
_DUE = (
    select(WEBHOOKS)
    .where(
        WEBHOOKS.c.next_at <= receivers.NOW,
        _IS_ABOUT_A_TASK,
        WEBHOOKS.c.id.not_in(bindparam("under_way", expanding=True)),
        WEBHOOKS.c.endpoint.not_in(bindparam("busy", expanding=True)),
        not_(receivers.is_resting(WEBHOOKS.c.endpoint)),
        not_(_AWAITS_ITS_UPLOAD),
    )
    .order_by(WEBHOOKS.c.next_at)
    .limit(bindparam("most"))
)


D = TypeVar("D", Delivery, Upload)
"""The kind of what is sent: a message, or a video."""


@dataclass(frozen=True, slots=True)
class Due(Generic[D]):
    """A message or a video that is to be sent now, with its task and the upload of the task's video."""

    delivery: D
    task: Task
    upload: Upload | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: the message's new state, and what its receiver asked for."""

    state: DeliveryState
    at: float
    """Time of the attempt, in seconds since 1970."""
    code: int | None
    """HTTP status of the answer; None without one."""
    fault: str | None
    """Why the attempt failed, as a sentence; None for a message that was delivered."""
    next_at: float | None
    """Time of the next attempt; None when there is none to come."""
    rests_until: float | None = None
    """Time before which nothing is to be sent to this receiver; None where it did not ask to slow down."""

    def columns(self, attempt: int) -> Mapping[str, object]:
        """Return what is stored of the attempt, which counts from 1."""
        return {
            "state": self.state,
            "attempts": attempt,
            "next_at": self.next_at,
            "last_at": self.at,
            "last_code": self.code,
            "last_fault": self.fault,
        }


class DeliveryLedger:
    """Reads and writes of one coordinator: while another service leads, nothing is due."""

    def __init__(self, database: Database, epoch: int) -> None:
        self._database = database
        self._epoch = epoch

    async def due(
        self, now: float, *, limit: int, under_way: Collection[str], busy: Collection[str]
    ) -> Sequence[Due[Delivery]]:
        """Return the messages due at ``now``, at most ``limit``, those that have waited longest first.

        Left out are the messages ``under_way``, by id, those to ``busy`` or resting receivers, and those
        whose video is about to be uploaded. Raises ``Superseded``.
        """
        values = {"now": now, "under_way": list(under_way), "busy": list(busy), "most": limit}
        rows = await self._database.read_once(
            lambda connection: connection.execute(_DUE, values).mappings().all()
        )
        if not rows:
            return []
        found = [delivery_of(row) for row in rows]
        async with self._database.read() as connection:
            if not (await seat_of(connection, self._epoch)).leads:
                return []
            about = select(TASKS).where(TASKS.c.uid.in_({each.task_uid for each in found}))
            tasks = {row["uid"]: task_of(row) for row in (await connection.execute(about)).mappings().all()}
            uploads = await uploads_of(connection, list(tasks.values()))
        return [
            Due(each, tasks[each.task_uid], uploads.get(each.task_uid))
            for each in found
            if each.task_uid in tasks  # which may have been deleted a moment ago
        ]

    async def pending(self) -> int:
        """Return the number of messages of which an attempt is to come."""
        query = select(func.count()).select_from(WEBHOOKS).where(WEBHOOKS.c.next_at.is_not(None))
        async with self._database.read() as connection:
            return await connection.scalar(query) or 0

    async def record(self, delivery: Delivery, outcome: Outcome) -> None:
        """Store what became of the next attempt at a message. Raises ``Superseded``."""
        values = outcome.columns(delivery.attempts + 1)
        # A resend during the attempt counts from 0 again and is not to be lost.
        same = and_(WEBHOOKS.c.id == delivery.id, WEBHOOKS.c.attempts == delivery.attempts)
        query = update(WEBHOOKS).where(same, coordinates(self._epoch)).values(values)
        async with self._database.write() as connection:
            if (await connection.execute(query)).rowcount == 0:
                await seat_of(connection, self._epoch)  # which raises if it was for this
                return
            if outcome.state is DeliveryState.DISABLED:
                await receivers.note(connection, delivery.endpoint, disabled=True)
                waiting = WEBHOOKS.c.endpoint == delivery.endpoint, WEBHOOKS.c.state == DeliveryState.PENDING
                await connection.execute(update(WEBHOOKS).where(*waiting).values(DISABLED))
            elif outcome.rests_until is not None:
                await receivers.note(connection, delivery.endpoint, rests_until=outcome.rests_until)

    async def forget(self) -> None:
        """Delete the messages about tasks that are no longer stored, and receivers without messages."""
        async with self._database.write() as connection:
            await connection.execute(delete(WEBHOOKS).where(not_(_IS_ABOUT_A_TASK), leads(self._epoch)))
            await receivers.forget_unused(connection, self._epoch)
