"""The outbox of webhooks: messages stored with the very change of a task that they tell of.

A message is in the transaction of the change, so neither is ever there without the other.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store import receivers
from serve_app.store.database import Database
from serve_app.store.rows import callback_of
from serve_app.store.tables import WEBHOOK_ENDPOINTS, WEBHOOKS
from serve_app.store.uploads import begin_uploads
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.webhook import EVENT_OF, Delivery, DeliveryState, EventType

DISABLED: Mapping[str, Any] = {
    "state": DeliveryState.DISABLED,
    "next_at": None,
    "last_fault": "The receiver has answered 410 before; a resend tries it again.",
}
"""Columns of a message to a receiver that is disabled."""


async def announce(connection: AsyncConnection, changed: Sequence[RowMapping]) -> None:
    """Store the messages about rows of ``tasks`` that a move has just changed, and the uploads of those that
    it ended with a video, in its transaction.
    """
    await begin_uploads(connection, changed)
    messages = [message for row in changed if (message := _message(row)) is not None]
    if not messages:
        return
    disabled = await receivers.disabled(connection, {message["endpoint"] for message in messages})
    await connection.execute(
        insert(WEBHOOKS),
        [{**message, **(DISABLED if message["endpoint"] in disabled else {})} for message in messages],
    )


def delivery_of(row: Mapping[str, Any] | RowMapping) -> Delivery:
    """Return the record of a row of ``webhooks``."""
    return Delivery(**{**row, "type": EventType(row["type"]), "state": DeliveryState(row["state"])})


class Outbox:
    """The clients' side of the outbox: what became of a task's messages, and sending them again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[Delivery]]:
        """Return the messages about each of these tasks, oldest first; a task without any has no entry."""
        uids = [task.uid for task in tasks if task.callback is not None]
        found: dict[str, list[Delivery]] = defaultdict(list)
        if uids:
            query = select(WEBHOOKS).where(WEBHOOKS.c.task_uid.in_(uids)).order_by(WEBHOOKS.c.occurred_at)
            async with self._database.read() as connection:
                for row in (await connection.execute(query)).mappings().all():
                    found[row["task_uid"]].append(delivery_of(row))
        return found

    async def resend(self, task: Task) -> int:
        """Have all messages about a task sent again, also to a receiver that is disabled; return how many."""
        of_task = WEBHOOKS.c.task_uid == task.uid
        again = {"state": DeliveryState.PENDING, "attempts": 0, "next_at": time.time()}
        async with self._database.write() as connection:
            endpoints = select(WEBHOOKS.c.endpoint).where(of_task)
            await connection.execute(
                delete(WEBHOOK_ENDPOINTS).where(WEBHOOK_ENDPOINTS.c.endpoint.in_(endpoints))
            )
            return (await connection.execute(update(WEBHOOKS).where(of_task).values(again))).rowcount


def _message(row: RowMapping) -> dict[str, Any] | None:
    callback, type_ = callback_of(row), EVENT_OF.get(Status(row["status"]))
    if callback is None or type_ is None or type_ not in callback.events:
        return None
    occurred_at = row["started_at"] if type_ is EventType.STARTED else row["finished_at"]
    return {
        # Of each version of a task there is one message at most.
        "id": f"msg_{row['uid']}_{row['version']}",
        "task_uid": row["uid"],
        "owner": row["owner"],
        "url": callback.url,
        "endpoint": hashlib.sha256(f"{row['owner']}\n{callback.url}".encode()).hexdigest(),
        "type": type_,
        "occurred_at": occurred_at,
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "next_at": occurred_at,
        "last_fault": None,
    }
