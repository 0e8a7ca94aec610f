"""Work on the database as a whole: committed, or rolled back where it raises, each write in its turn."""

import threading
from functools import partial

import pytest
from sqlalchemy import Connection, func, insert, select

from serve_app.errors import StoreUnavailable
from serve_app.store.database import Database
from serve_app.store.tables import PAUSES
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from tests.contract.tasks import ADMISSION, new


def pause(connection: Connection, model: str) -> None:
    connection.execute(insert(PAUSES).values(model=model, owner=""))


def pauses(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(PAUSES)).scalar_one()


def pause_and_fail(connection: Connection) -> None:
    pause(connection, "a")
    assert pauses(connection) == 1
    raise KeyError("a")


@pytest.mark.asyncio
async def test_what_raises_is_rolled_back_whole_and_the_next_is_committed(database: Database) -> None:
    with pytest.raises(KeyError):
        await database.write_once(pause_and_fail)
    assert await database.read_once(pauses) == 0
    await database.write_once(partial(pause, model="b"))
    assert await database.read_once(pauses) == 1


@pytest.mark.asyncio
async def test_each_transaction_is_told_of(migrated_url: str) -> None:
    told: list[str] = []
    database = Database(migrated_url, on_transaction=lambda kind, _: told.append(kind))
    await database.write_once(partial(pause, model="a"))
    await database.read_once(pauses)
    await database.close()
    assert told == ["write", "read"]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_submit_and_a_look_are_a_trip_each_and_not_on_the_event_loop(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    execute = Connection.execute

    def noted(self: Connection, *args: object, **options: object) -> object:
        threads.append(threading.get_ident())
        return execute(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Connection, "execute", noted)
    store = TaskStore(database)
    for act in (store.submit(new("a"), ADMISSION), store.get(EVERYONE, "a")):
        threads.clear()
        await act
        assert len(set(threads)) == 1 and threading.get_ident() not in threads


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_write_takes_its_turn_in_its_process_and_blames_no_other_program(
    migrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(migrated_url, lock_patience_s=0.1)
    store = TaskStore(database)
    async with database.write_alone():
        with pytest.raises(StoreUnavailable):
            await store.submit(new("a"), ADMISSION)
    assert not caplog.records, "the file is locked by nobody else"
    assert (await store.submit(new("b"), ADMISSION)).id == "b"
    await database.close()
