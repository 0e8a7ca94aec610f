"""The database of an earlier version is migrated with everything that it holds."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from serve_app.errors import TaskExists
from serve_app.store.database import Database, SchemaTooNew, newest_version
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.store.upgrade import migrations
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import EVERYONE, Caller
from serve_app.tasks.task import NewTask, TaskSpec
from serve_app.tasks.transitions import Status

SPEC = TaskSpec("a cat", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)
ADMISSION = Admission(max_queued=100, max_attempts=3, retry_after_s=7)
ROW_OF_0001 = """
INSERT INTO tasks (uid, id, status, model, spec, work, priority, owner, notes, request, save_path,
                   idempotency_key, digest, attempt, attempts_left, step, progress, created_at, timings)
VALUES (:uid, :id, :status, 'demo', :spec, 12.5, 3, '', '["shrunk"]', '{"prompt": "a cat"}', 'outputs/x.mp4',
        :key, 'd', 0, 3, 0, 0.25, 1700000000.5, '{}')
"""
SPEC_OF_0001 = (
    '{"prompt": "a cat", "negative_prompt": "", "width": 64, "height": 64, "num_frames": 5, "fps": 16, '
    '"steps": 4, "guidance_scale": 5.0, "guidance_scale_2": null, "flow_shift": 5.0, "seed": 1}'
)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database as 0001 left it, with three tasks."""
    database = Database(database_url)

    def make(connection: Connection) -> None:
        command.upgrade(migrations(connection), "0001")
        for at, status in enumerate(("queued", "succeeded", "queued")):
            row = {"uid": f"u{at}", "id": f"t{at}", "status": status, "spec": SPEC_OF_0001, "key": f"k{at}"}
            connection.execute(text(ROW_OF_0001), row)

    async with database.write_alone() as connection:
        await connection.run_sync(make)
    yield database
    await database.close()


async def test_tasks_of_0001_are_all_there_as_they_were(database: Database) -> None:
    await database.migrate()
    store = TaskStore(database)
    tasks = await store.list(EVERYONE, limit=9)
    assert [(task.seq, task.uid, task.id) for task in tasks] == [
        (3, "u2", "t2"),
        (2, "u1", "t1"),
        (1, "u0", "t0"),
    ]
    first = tasks[-1]
    assert (first.spec, first.work, first.priority, first.created_at) == (SPEC, 12.5, 3, 1700000000.5)
    assert (first.notes, first.request, first.progress) == (("shrunk",), {"prompt": "a cat"}, 0.25)
    assert (first.status, first.owner, first.tokens) == (Status.QUEUED, "", 0)


async def test_a_service_of_0001_goes_on_where_it_was(database: Database) -> None:
    await database.migrate()
    store, ledger = TaskStore(database), await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    task = await ledger.claim("demo", "r")
    assert task is not None and task.id == "t0"
    new = NewTask("u9", "t0", "demo", SPEC, 1.0, "outputs/y.mp4")
    with pytest.raises(TaskExists):
        await store.submit(new, ADMISSION)
    again = await store.submit(
        NewTask("u8", "n", "demo", SPEC, 1.0, "y", idempotency_key="k1", digest="d"), ADMISSION
    )
    assert again.id == "t1"
    of_a_key = NewTask("u7", "t0", "demo", SPEC, 1.0, "outputs/y.mp4", owner="alice")
    stored = await store.submit(of_a_key, ADMISSION)
    assert stored.seq > 3 and (await store.get(Caller("alice"), "t0")).uid == "u7"


async def test_processes_that_start_together_migrate_the_database_once(
    database: Database, database_url: str
) -> None:
    others = [Database(database_url) for _ in range(3)]
    await asyncio.gather(*(other.migrate() for other in others))
    assert len(await TaskStore(others[0]).list(EVERYONE, limit=9)) == 3
    for other in others:
        await other.close()


async def test_the_newest_migration_can_be_taken_back(database: Database) -> None:
    await database.migrate()
    async with database.write_alone() as connection:
        await connection.run_sync(lambda sync: command.downgrade(migrations(sync), "0001"))
    await database.migrate()
    assert len(await TaskStore(database).list(EVERYONE, limit=9)) == 3


async def test_the_newest_version_by_the_files_is_the_newest_of_the_migrations(database: Database) -> None:
    async with database.read() as connection:
        config = await connection.run_sync(migrations)
    assert ScriptDirectory.from_config(config).get_current_head() == newest_version()


async def become(database: Database, version: str, oldest_program: str) -> None:
    """Make the database one that a later version has migrated."""
    await database.migrate()
    async with database.write_alone() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": version})
        await connection.execute(
            text("UPDATE compatibility SET oldest_program = :new"), {"new": oldest_program}
        )


async def test_the_schema_of_a_later_version_that_only_adds_to_it_is_used_as_it_is(
    database: Database,
) -> None:
    await become(database, "9999", newest_version())
    await database.require_usable()
    await database.migrate()
    assert len(await TaskStore(database).list(EVERYONE, limit=9)) == 3
    async with database.read() as connection:
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


async def test_the_schema_of_a_later_version_that_this_one_cannot_use_is_refused(database: Database) -> None:
    await become(database, "9999", "9998")
    for refused in (database.require_usable(), database.migrate()):
        with pytest.raises(
            SchemaTooNew, match=r"schema 9999 of a later version .* before schema 9998 cannot use"
        ):
            await refused
