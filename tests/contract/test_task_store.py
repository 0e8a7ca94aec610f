"""The task store's promises to clients. The suite runs on every database the service offers."""

import asyncio
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, event

from serve_app.errors import IdempotencyMismatch, OverQuota, QueueFull, TaskExists, TaskNotFound
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import METADATA
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import EVERYONE, Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from tests.contract.tasks import ADMISSION, SPEC, at, claimed, made, new


async def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_processes_that_start_together_migrate_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    await asyncio.gather(*(database.migrate() for database in databases))
    await TaskStore(databases[0]).submit(new("a"), ADMISSION)
    assert (await TaskStore(databases[3]).get(EVERYONE, "a")).status is Status.QUEUED
    for database in databases:
        await database.close()


async def test_a_submitted_task_is_read_back_as_it_was_given(store: TaskStore) -> None:
    given = new("a", notes=("shrunk",), request={"prompt": "a cat", "seed": 1}, priority=3, owner="key")
    await store.submit(given, ADMISSION)
    task = await store.get(EVERYONE, "a")
    assert (task.uid, task.spec, task.notes, task.request) == (given.uid, SPEC, ("shrunk",), given.request)
    assert (task.status, task.attempt, task.progress, task.priority) == (Status.QUEUED, 0, 0.0, 3)


async def test_a_task_outlives_the_process_that_took_it(database_url: str) -> None:
    first = Database(database_url)
    await first.migrate()
    await TaskStore(first).submit(new("a"), ADMISSION)
    second = Database(database_url)  # the first one is still open, as after a kill -9
    assert (await TaskStore(second).get(EVERYONE, "a")).status is Status.QUEUED
    await first.close()
    await second.close()


async def test_an_id_is_taken_once_unless_the_record_is_to_be_replaced(store: TaskStore) -> None:
    await store.submit(new("a"), ADMISSION)
    with pytest.raises(TaskExists):
        await store.submit(new("a", uid="other"), ADMISSION)
    replaced = await store.submit(new("a", uid="other"), replace(ADMISSION, replace=True))
    assert replaced.uid == "other" == (await store.get(EVERYONE, "a")).uid


async def test_the_run_of_a_replaced_task_is_told_to_leave(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    await store.submit(new("a", uid="other"), replace(ADMISSION, replace=True))
    assert not await ledger.report(task.uid, task.attempt, at(1, 0.1))
    assert await ledger.publish(task.uid, task.attempt, made()) is None
    assert (await store.get(EVERYONE, "a")).status is Status.QUEUED


async def test_submits_at_once_are_each_stored_and_told_apart(store: TaskStore) -> None:
    admission = Admission(max_queued=3, max_attempts=3, retry_after_s=7)
    names = ["a", "b", "a", "c", "d"]
    answers = await asyncio.gather(
        *(store.submit(new(name, uid=f"uid-{at}"), admission) for at, name in enumerate(names)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [Task, Task, TaskExists, Task, QueueFull]
    assert [task.id for task in await store.list(EVERYONE, limit=9)] == ["c", "b", "a"]
    assert [answer.seq for answer in answers if isinstance(answer, Task)] == [
        (await store.get(EVERYONE, name)).seq for name in ("a", "b", "c")
    ]


async def test_submits_at_once_share_a_statement(store: TaskStore) -> None:
    inserts: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.startswith("INSERT INTO tasks "):
            inserts.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        await asyncio.gather(*(store.submit(new(f"task-{n}"), ADMISSION) for n in range(6)))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert 1 <= len(inserts) <= 2, "that of the first, and that of all who came meanwhile"


async def test_the_same_idempotency_key_at_once_makes_one_task(store: TaskStore) -> None:
    submits = (store.submit(new(name, idempotency_key="k", digest="1"), ADMISSION) for name in "abc")
    answers = await asyncio.gather(*submits)
    assert len({task.uid for task in answers}) == 1 == len(await store.list(EVERYONE, limit=9))


async def test_a_client_that_hangs_up_spoils_nothing_for_the_others(store: TaskStore) -> None:
    hung_up = asyncio.create_task(store.submit(new("a"), ADMISSION))
    other = asyncio.create_task(store.submit(new("b"), ADMISSION))
    await asyncio.sleep(0)
    hung_up.cancel()
    assert (await other).id == "b"


async def test_a_full_queue_refuses_and_says_when_to_come_back(store: TaskStore, ledger: RunLedger) -> None:
    admission = Admission(max_queued=1, max_attempts=3, retry_after_s=7)
    await store.submit(new("a"), admission)
    with pytest.raises(QueueFull) as refused:
        await store.submit(new("b"), admission)
    assert refused.value.retry_after_s == 7
    await ledger.claim("demo", "replica-1")  # a running task takes no place in the queue
    await store.submit(new("b"), admission)


async def test_the_same_idempotency_key_makes_one_task(store: TaskStore) -> None:
    first = await store.submit(new("a", idempotency_key="k", digest="1"), ADMISSION)
    again = await store.submit(new("b", idempotency_key="k", digest="1"), ADMISSION)
    assert again == first
    with pytest.raises(TaskNotFound):
        await store.get(EVERYONE, "b")
    with pytest.raises(IdempotencyMismatch):
        await store.submit(new("c", idempotency_key="k", digest="2"), ADMISSION)
    other_owner = await store.submit(new("d", idempotency_key="k", digest="2", owner="x"), ADMISSION)
    assert other_owner.id == "d"


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
async def test_cancel_is_final_and_said_once(store: TaskStore, ledger: RunLedger, running: bool) -> None:
    await store.submit(new("a"), ADMISSION)
    if running:
        await ledger.claim("demo", "r")
    assert [(await store.cancel(EVERYONE, "a"))[1] for _ in range(2)] == [True, False]
    assert await ledger.claim("demo", "r") is None
    assert not await ledger.report("uid-a", 1, at(1, 0.1))
    assert await ledger.publish("uid-a", 1, made()) is None
    assert (await store.get(EVERYONE, "a")).status is Status.CANCELLED


async def test_cancel_and_publish_at_once_have_one_winner(store: TaskStore, ledger: RunLedger) -> None:
    for number in range(20):
        task = await claimed(store, ledger, f"t{number}")
        (_, cancelled), published = await asyncio.gather(
            store.cancel(EVERYONE, task.id), ledger.publish(task.uid, 1, made())
        )
        assert cancelled == (published is None)
        assert (await store.get(EVERYONE, task.id)).status is (
            Status.CANCELLED if cancelled else Status.SUCCEEDED
        )


async def test_cancel_all_spares_tasks_that_have_ended(store: TaskStore, ledger: RunLedger) -> None:
    done = await claimed(store, ledger, "done")
    await ledger.publish(done.uid, 1, made())
    await claimed(store, ledger, "running")
    await store.submit(new("queued"), ADMISSION)
    assert [task.id for task in await store.cancel_all(EVERYONE, Status.RUNNING)] == ["running"]
    assert [task.id for task in await store.cancel_all(EVERYONE)] == ["queued"]
    assert (await store.counts())[Status.SUCCEEDED] == 1


async def test_lists_are_newest_first_and_go_on_after_a_task(store: TaskStore) -> None:
    for name in "abcd":
        await store.submit(new(name), ADMISSION)
    await store.cancel(EVERYONE, "c")
    assert [task.id for task in await store.list(EVERYONE, limit=2)] == ["d", "c"]
    assert [task.id for task in await store.list(EVERYONE, limit=9, after="c")] == ["b", "a"]
    assert [task.id for task in await store.list(EVERYONE, statuses=[Status.CANCELLED], limit=9)] == ["c"]
    with pytest.raises(TaskNotFound):
        await store.list(EVERYONE, limit=2, after="nobody")


async def test_the_newest_result_stands_under_a_shared_path(store: TaskStore, ledger: RunLedger) -> None:
    assert await store.published_at(EVERYONE, "same.mp4") is None
    for name in ("a", "b"):
        await store.submit(new(name, save_path="same.mp4"), ADMISSION)
        await ledger.claim("demo", "r")
        await ledger.publish(f"uid-{name}", 1, made(f"{name}.mp4"))
        task = await store.published_at(EVERYONE, "same.mp4")
        assert task is not None and task.artifact == f"{name}.mp4"


ALICE, BOB, BOSS = Caller("alice"), Caller("bob"), Caller("boss", is_admin=True)


async def test_an_owner_sees_its_own_tasks_and_an_admin_all(store: TaskStore) -> None:
    for owner in ("alice", "bob"):
        await store.submit(new("same", uid=f"of-{owner}", owner=owner), ADMISSION)
    await store.submit(new("hers", owner="alice"), ADMISSION)
    assert [(await store.get(caller, "same")).uid for caller in (ALICE, BOB)] == ["of-alice", "of-bob"]
    assert (await store.get(BOSS, "hers")).owner == "alice"
    with pytest.raises(TaskNotFound):
        await store.get(BOB, "hers")
    with pytest.raises(TaskNotFound):
        await store.list(BOB, limit=9, after="hers")
    seen = {caller.name: len(await store.list(caller, limit=9)) for caller in (ALICE, BOB, BOSS)}
    assert seen == {"alice": 2, "bob": 1, "boss": 3}


async def test_of_one_id_an_admin_is_given_its_own_then_the_newest(store: TaskStore) -> None:
    for owner in ("alice", "bob"):
        await store.submit(new("same", uid=f"of-{owner}", owner=owner), ADMISSION)
    assert (await store.get(BOSS, "same")).owner == "bob"
    await store.submit(new("same", uid="of-boss", owner="boss"), ADMISSION)
    await store.submit(new("same", uid="of-carol", owner="carol"), ADMISSION)
    assert (await store.get(BOSS, "same")).owner == "boss"


async def test_an_owner_stops_only_its_own(store: TaskStore) -> None:
    for owner in ("alice", "bob"):
        await store.submit(new(f"{owner}s", owner=owner), ADMISSION)
    with pytest.raises(TaskNotFound):
        await store.cancel(BOB, "alices")
    assert [task.id for task in await store.cancel_all(BOB, Status.QUEUED)] == ["bobs"]
    assert (await store.get(ALICE, "alices")).status is Status.QUEUED
    assert [task.id for task in await store.cancel_all(BOSS)] == ["alices"]


async def test_a_record_is_replaced_only_by_its_owner(store: TaskStore) -> None:
    await store.submit(new("a", owner="alice"), ADMISSION)
    replacing = replace(ADMISSION, replace=True)
    await store.submit(new("a", uid="bobs", owner="bob"), replacing)
    assert (await store.get(ALICE, "a")).uid == "uid-a"
    await store.submit(new("a", uid="newer", owner="alice"), replacing)
    assert (await store.get(ALICE, "a")).uid == "newer"


async def test_a_refused_submit_replaces_nothing(store: TaskStore) -> None:
    await store.submit(new("a"), ADMISSION)
    with pytest.raises(QueueFull):
        await store.submit(new("a", uid="newer"), replace(ADMISSION, max_queued=1, replace=True))
    assert (await store.get(EVERYONE, "a")).uid == "uid-a"


async def test_a_published_file_is_found_by_its_owner(store: TaskStore, ledger: RunLedger) -> None:
    await store.submit(new("a", owner="alice"), ADMISSION)
    await ledger.claim("demo", "r")
    await ledger.publish("uid-a", 1, made("a.mp4"))
    assert await store.published_at(BOB, "videos/a.mp4") is None
    for caller in (ALICE, BOSS):
        assert await store.published_at(caller, "videos/a.mp4") is not None


async def test_an_owners_queued_tasks_are_limited_apart_from_the_others(store: TaskStore) -> None:
    admission = replace(ADMISSION, max_queued_own=2, own_retry_after_s=3)
    answers = await asyncio.gather(
        *(store.submit(new(f"a{number}", owner="alice"), admission) for number in range(4)),
        *(store.submit(new(f"b{number}", owner="bob"), ADMISSION) for number in range(4)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [Task] * 2 + [OverQuota] * 2 + [Task] * 4
    refused = answers[2]
    assert isinstance(refused, OverQuota) and refused.retry_after_s == 3
    await store.cancel(ALICE, "a0")
    assert (await store.submit(new("again", owner="alice"), admission)).id == "again"
