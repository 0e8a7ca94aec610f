"""The file of a SQLite database that something happens to while the service runs."""

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from serve_app.errors import StoreUnavailable
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.transitions import Status
from tests.contract.tasks import ADMISSION, claimed, made, new


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest_asyncio.fixture
async def store(file: Path) -> AsyncIterator[TaskStore]:
    database = Database(f"sqlite+aiosqlite:///{file}", lock_patience_s=0.1)
    await database.migrate()
    yield TaskStore(database)
    await database.close()


async def test_a_new_database_and_its_log_are_its_users_alone(store: TaskStore, file: Path) -> None:
    await store.submit(new("a"), ADMISSION)
    files = [
        path for path in file.parent.iterdir() if path.name in ("tasks.db", "tasks.db-wal", "tasks.db-shm")
    ]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 3


def delete(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    copy = file.with_name("copy.db")
    shutil.copy(file, copy)
    os.replace(copy, file)


@pytest.mark.parametrize("strike", [delete, replace])
async def test_into_a_database_that_was_deleted_or_replaced_nothing_is_written(
    store: TaskStore, file: Path, strike: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    await store.submit(new("a"), ADMISSION)
    os.link(file, file.with_name("kept.db"))
    strike(file)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.submit(new("b"), ADMISSION)
    (line,) = caplog.records
    assert "Stop the service, put the database back" in line.getMessage()
    file.unlink(missing_ok=True)
    file.with_name("kept.db").rename(file)
    await store.submit(new("c"), ADMISSION)


async def test_a_database_that_is_locked_for_long_is_unavailable_and_then_there_again(
    store: TaskStore, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # One waits for the lock, the others for that one.
        writes = [store.submit(new("a"), ADMISSION), *(store.cancel_all(EVERYONE) for _ in range(3))]
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 4
        assert "find the program that holds its lock" in caplog.text
        other.execute("ROLLBACK")
    await store.submit(new("a"), ADMISSION)


async def test_what_ends_runs_waits_for_a_lock_longer_than_clients_do(store: TaskStore, file: Path) -> None:
    patient = Database(f"sqlite+aiosqlite:///{file}")
    ledger = await RunLedger.take_lead(patient, lease_s=30, grace_s=10)
    run = await claimed(store, ledger)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        publishing = asyncio.create_task(ledger.publish(run.uid, 1, made()))
        with pytest.raises(StoreUnavailable):
            await store.cancel_all(EVERYONE)
        assert not publishing.done()
        other.execute("ROLLBACK")
    published = await publishing
    assert published is not None and published.status is Status.SUCCEEDED
    await patient.close()


async def test_a_database_that_becomes_read_only_is_read_and_not_written(
    store: TaskStore, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = await store.submit(new("a"), ADMISSION)
    # As on a disk that is mounted so; the tests may run as a user whom the mode of a file does not bind.
    database = Database(f"sqlite+aiosqlite:///file:{file}?mode=ro&uri=true")
    read_only = TaskStore(database)
    assert await read_only.get(EVERYONE, "a") == task
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await read_only.submit(new("b"), ADMISSION)
    (line,) = caplog.records
    assert line.getMessage().endswith("have its file, its folder and their disk be writable again")
    await database.close()


async def test_a_damaged_database_is_unavailable(store: TaskStore, file: Path) -> None:
    await store.submit(new("a"), ADMISSION)
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as damaged:
        damaged.seek(0, os.SEEK_END)
        damaged.truncate(damaged.tell() // 2)
    with pytest.raises(StoreUnavailable):
        await store.submit(new("b"), ADMISSION)


async def test_an_error_of_a_statement_stays_and_shows_no_value(store: TaskStore, file: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{file}")
    statement = text("INSERT INTO services (name, epoch) VALUES (:name, :epoch)")
    with pytest.raises(IntegrityError) as caught:
        async with database.write() as connection:
            await connection.execute(statement, {"name": "a marked prompt", "epoch": None})
    assert "a marked prompt" not in str(caught.value)
    await database.close()
