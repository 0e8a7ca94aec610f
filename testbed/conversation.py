"""What a version says to its database, recorded for the versions after it: they must answer it alike.

``python -m testbed.conversation FOLDER`` records this version's, on SQLite and on PostgreSQL, when it is
released. A test replays the last release's on the newest schema, where a service of that version may go on
during an upgrade.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from models.phase import Phase
from serve_app.store.database import Database, newest_version
from serve_app.store.delivery_ledger import DeliveryLedger, Outcome
from serve_app.store.fleet import Fleet
from serve_app.store.outbox import Outbox
from serve_app.store.pause_book import PauseBook
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.store.upload_ledger import UploadLedger
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.fair_share import Share
from serve_app.tasks.replica import Replica, Scale
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import NewTask, TaskError, TaskSpec
from serve_app.tasks.webhook import Callback, DeliveryState
from testbed.postgres_server import PostgresServer, programs

_NOT_OURS = ("PRAGMA", "BEGIN", "SELECT pg_", "select pg_", "show ", "ROLLBACK")
_SPEC = TaskSpec("a cat", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)
_ADMISSION = Admission(max_queued=100, max_attempts=3, retry_after_s=7)
_HOOK = Callback("https://example.com/hook")
_UPLOAD_URL = "https://example.com/upload?signature"


def _new(name: str, **more: Any) -> NewTask:
    return NewTask(f"uid-{name}", name, "demo", _SPEC, 10.0, f"{name}.mp4", **more)


async def _submits(store: TaskStore) -> None:
    for name in ("published", "failed", "lost", "back", "cancelled", "early"):
        new = _new(name, owner="alice", callback=_HOOK, upload_url=_UPLOAD_URL)
        await store.submit(new, _ADMISSION)
    again = _new("again", idempotency_key="k", digest="d", expires_in_s=3600.0)
    for _ in range(2):
        await store.submit(again, _ADMISSION)
    await store.reorder(EVERYONE, "again", -1)
    await store.put_first(EVERYONE, "early")
    await store.cancel(EVERYONE, "cancelled")


async def _runs(store: TaskStore, ledger: RunLedger) -> None:
    claimed = [await ledger.claim("demo", "replica", ["style"]) for _ in range(5)]
    runs = {task.id: task for task in claimed if task is not None}
    await ledger.report(runs["early"].uid, 1, RunReport(1, 0.5, Phase.DENOISING, ("A note.",)))
    await store.finish_early(EVERYONE, "early")
    await store.want_previews(runs["early"])
    await ledger.publish(runs["published"].uid, 1, RunResult("key", {"denoise_s": 1.5}, 4))
    await ledger.fail(runs["failed"].uid, 1, TaskError("model_error", "The model failed."))
    await ledger.give_up(runs["lost"].uid, 1)
    await ledger.hand_back(runs["back"].uid, 1)
    await ledger.expire_leases()
    await ledger.expire_waiting()
    await ledger.demand()


async def _reads(store: TaskStore, ledger: RunLedger, outbox: Outbox) -> None:
    tasks = await store.list(EVERYONE, limit=100)
    await store.get(EVERYONE, "early")
    await outbox.of(tasks)
    await store.versions(0)
    await store.counts()
    await store.ended_since(EVERYONE, 0.0, limit=9)
    await store.published_at(EVERYONE, "published.mp4")
    await store.running()
    await store.is_draining()
    _ = [page async for page in store.queue()]
    await ledger.known_uids()


async def _uploads(database: Database, ledger: RunLedger) -> None:
    uploads = UploadLedger(database, ledger.epoch)
    await uploads.begin_missed()
    for due in await uploads.due(4e9, limit=2, under_way=[], busy=[]):
        await uploads.record(due.delivery, Outcome(DeliveryState.PENDING, 1.0, 503, "503.", 5.0, 3.0))
    await uploads.pending()
    await uploads.forget()


async def converse(database: Database) -> None:
    """Make each move, and ask each thing, that a service does on its database."""
    store, fleet, pauses = TaskStore(database), Fleet(database), PauseBook(database)
    shares = {"alice": Share(2.0, 9)}
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=shares)
    deliveries, outbox = DeliveryLedger(database, ledger.epoch), Outbox(database)
    await _submits(store)
    await pauses.pause_owner("bob")
    await pauses.pause_model("other")
    await _runs(store, ledger)
    await pauses.resume_owner("bob")
    await fleet.saw(Replica("replica", "demo", "cpu", 1, 1.0))
    await fleet.replicas(seen_within_s=9.0)
    for _ in range(2):
        await fleet.learn("demo", 0.5, 1024)
        await fleet.note_scale(Scale("demo", 1, failing=False))
    await fleet.forget_scales(but=["demo"])
    await fleet.gone(unseen_for_s=300.0)
    for due in await deliveries.due(4e9, limit=2, under_way=[], busy=[]):
        await deliveries.record(due.delivery, Outcome(DeliveryState.DELIVERED, 1.0, 204, None, None))
    await _uploads(database, ledger)
    await _reads(store, ledger, outbox)
    await ledger.drain()
    await ledger.forget_ended(before=4e9)
    await deliveries.forget()


async def record(url: str) -> list[list[Any]]:
    """Return each statement of ``converse`` on a new database, with its parameters."""
    database = Database(url)
    await database.migrate()
    said: list[list[Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        if not statement.startswith(_NOT_OURS):
            said.append([statement, parameters])

    event.listen(Engine, "before_cursor_execute", note)
    await converse(database)
    event.remove(Engine, "before_cursor_execute", note)
    await database.close()
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]


async def replay(url: str, said: Sequence[Sequence[Any]]) -> list[Any]:
    """Say each statement again; return what each is answered: its rows, or how many it changed."""
    answers: list[Any] = []
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement, parameters, *_ in said:
            many = bool(parameters) and isinstance(parameters[0], list)
            values: Any = [tuple(each) for each in parameters] if many else tuple(parameters)
            result = await connection.exec_driver_sql(statement, values)
            answers.append([list(row) for row in result] if result.returns_rows else result.rowcount)
    await engine.dispose()
    return json.loads(json.dumps(answers, default=str))  # type: ignore[no-any-return]


async def _write(url: str, fresh_url: str, file: Path) -> None:
    said = await record(url)
    fresh = Database(fresh_url)
    await fresh.migrate()
    await fresh.close()
    answers = await replay(fresh_url, said)
    lines = [json.dumps([*each, answer]) for each, answer in zip(said, answers, strict=True)]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> None:
    """Record this version on both databases."""
    folder = Path(sys.argv[1])
    found = programs()
    assert found is not None, "PostgreSQL's server programs are not installed"
    with PostgresServer(found) as server, tempfile.TemporaryDirectory() as files:
        one, other = (f"sqlite+aiosqlite:///{files}/{name}.db" for name in ("one", "other"))
        asyncio.run(_write(one, other, folder / f"{newest_version()}-sqlite.json"))
        one, other = server.new_database(), server.new_database()
        asyncio.run(_write(one, other, folder / f"{newest_version()}-postgres.json"))


if __name__ == "__main__":
    main()
