"""The coordinator's side of uploads: which videos are to be sent now, and what became of each attempt."""

from collections.abc import Collection, Sequence

from sqlalchemy import and_, bindparam, delete, exists, func, not_, select, update

from serve_app.store import receivers
from serve_app.store.database import Database
from serve_app.store.delivery_ledger import Due, Outcome
from serve_app.store.leadership import coordinates, leads, seat_of
from serve_app.store.rows import task_of
from serve_app.store.tables import TASKS, UPLOADS
from serve_app.store.uploads import begin_uploads, uploads_of
from serve_app.tasks.transitions import Status
from serve_app.tasks.upload import Upload

_IS_OF_A_TASK = exists().where(TASKS.c.uid == UPLOADS.c.task_uid)
_AT_ONCE = 500
# Made once, as that of messages.
_DUE = (
    select(UPLOADS.c.task_uid)
    .where(
        UPLOADS.c.next_at <= receivers.NOW,
        _IS_OF_A_TASK,
        UPLOADS.c.task_uid.not_in(bindparam("under_way", expanding=True)),
        UPLOADS.c.endpoint.not_in(bindparam("busy", expanding=True)),
        not_(receivers.is_resting(UPLOADS.c.endpoint)),
    )
    .order_by(UPLOADS.c.next_at)
    .limit(bindparam("most"))
)


class UploadLedger:
    """Reads and writes of one coordinator: while another service leads, nothing is due."""

    def __init__(self, database: Database, epoch: int) -> None:
        self._database = database
        self._epoch = epoch

    async def due(
        self, now: float, *, limit: int, under_way: Collection[str], busy: Collection[str]
    ) -> Sequence[Due[Upload]]:
        """Return the uploads due at ``now``, at most ``limit``, those that have waited longest first.

        Left out are those ``under_way``, by uid, and those to ``busy`` or resting storages. Raises
        ``Superseded``.
        """
        values = {"now": now, "under_way": list(under_way), "busy": list(busy), "most": limit}
        found = await self._database.read_once(
            lambda connection: connection.execute(_DUE, values).scalars().all()
        )
        if not found:
            return []
        async with self._database.read() as connection:
            if not (await seat_of(connection, self._epoch)).leads:
                return []
            of_them = select(TASKS).where(TASKS.c.uid.in_(found))
            tasks = {row["uid"]: task_of(row) for row in (await connection.execute(of_them)).mappings()}
            uploads = await uploads_of(connection, list(tasks.values()))
        # Of those found a moment ago some may have been deleted since.
        return [Due(uploads[uid], tasks[uid], uploads[uid]) for uid in found if uid in uploads]

    async def pending(self) -> int:
        """Return the number of uploads of which an attempt is to come."""
        query = select(func.count()).select_from(UPLOADS).where(UPLOADS.c.next_at.is_not(None))
        async with self._database.read() as connection:
            return await connection.scalar(query) or 0

    async def record(self, upload: Upload, outcome: Outcome) -> None:
        """Store what became of the next attempt at an upload. Raises ``Superseded``."""
        values = outcome.columns(upload.attempts + 1)
        same = and_(UPLOADS.c.task_uid == upload.task_uid, UPLOADS.c.attempts == upload.attempts)
        query = update(UPLOADS).where(same, coordinates(self._epoch)).values(values)
        async with self._database.write() as connection:
            if (await connection.execute(query)).rowcount == 0:
                await seat_of(connection, self._epoch)  # which raises if it was for this
            elif outcome.rests_until is not None:
                await receivers.note(connection, upload.endpoint, rests_until=outcome.rests_until)

    async def begin_missed(self) -> None:
        """Begin the uploads of videos that a service of a version before, which knows of none, published."""
        missed = (
            select(TASKS)
            .where(
                TASKS.c.status == Status.SUCCEEDED,
                TASKS.c.upload_url.is_not(None),
                not_(exists().where(UPLOADS.c.task_uid == TASKS.c.uid)),
                leads(self._epoch),
            )
            .limit(_AT_ONCE)
        )
        async with self._database.read() as connection:
            if (await connection.execute(missed)).first() is None:
                return
        async with self._database.write_alone() as connection:
            await begin_uploads(connection, (await connection.execute(missed)).mappings().all())

    async def forget(self) -> None:
        """Delete the uploads of tasks that are no longer stored."""
        async with self._database.write() as connection:
            await connection.execute(delete(UPLOADS).where(not_(_IS_OF_A_TASK), leads(self._epoch)))
