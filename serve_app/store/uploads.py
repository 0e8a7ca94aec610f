"""The clients' side of uploads: begun with the commit of a video, and read for the status of its task."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import RowMapping, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.database import Database
from serve_app.store.tables import UPLOADS
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import DeliveryState


async def begin_uploads(connection: AsyncConnection, changed: Sequence[RowMapping]) -> None:
    """Store the uploads of rows of ``tasks`` that have just succeeded, in the transaction of that move."""
    begun = [_first_row(row) for row in changed if row["upload_url"] and row["status"] == Status.SUCCEEDED]
    if begun:
        await connection.execute(insert(UPLOADS), begun)


def upload_of(row: Mapping[str, Any] | RowMapping, url: str) -> Upload:
    """Return the record of a row of ``uploads``, and of the URL of its task."""
    return Upload(**{**row, "url": url, "state": DeliveryState(row["state"])})


async def uploads_of(connection: AsyncConnection, tasks: Sequence[Task]) -> Mapping[str, Upload]:
    """Return the uploads of those of ``tasks`` that have one, by uid: before the video is there, none has."""
    urls = {task.uid: task.upload_url for task in tasks if task.upload_url is not None}
    if not urls:
        return {}
    rows = await connection.execute(select(UPLOADS).where(UPLOADS.c.task_uid.in_(urls)))
    return {row["task_uid"]: upload_of(row, urls[row["task_uid"]]) for row in rows.mappings()}


class Uploads:
    """Reads of uploads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, tasks: Sequence[Task]) -> Mapping[str, Upload]:
        """Return the uploads of those of ``tasks`` that have one, by uid."""
        if not any(task.upload_url for task in tasks):
            return {}
        async with self._database.read() as connection:
            return await uploads_of(connection, tasks)


def _first_row(row: RowMapping) -> dict[str, Any]:
    # The host, since each presigned URL is another.
    host = urlsplit(row["upload_url"]).netloc
    return {
        "task_uid": row["uid"],
        "endpoint": hashlib.sha256(f"{row['owner']}\n{host}".encode()).hexdigest(),
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "next_at": row["finished_at"],
    }
