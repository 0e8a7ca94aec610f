"""Uploads on each database: begun with the commit of a video, due until they are recorded, whoever leads."""

import time

import pytest
from sqlalchemy import delete

from serve_app.store.database import Database
from serve_app.store.delivery_ledger import DeliveryLedger, Outcome
from serve_app.store.leadership import Superseded
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import UPLOADS
from serve_app.store.task_store import TaskStore
from serve_app.store.upload_ledger import UploadLedger
from serve_app.store.uploads import Uploads
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Callback, DeliveryState
from tests.contract.tasks import ADMISSION, made, new

URL = "https://storage.example/bucket/{}?X-Amz-Signature=s"


@pytest.fixture
def record(database: Database, ledger: RunLedger) -> UploadLedger:
    return UploadLedger(database, ledger.epoch)


async def published(store: TaskStore, ledger: RunLedger, name: str, **more: object) -> Task:
    await store.submit(new(name, upload_url=URL.format(name), **more), ADMISSION)
    task = await ledger.claim("demo", "r")
    assert task is not None
    done = await ledger.publish(task.uid, task.attempt, made(name))
    assert done is not None
    return done


async def due(record: UploadLedger, now: float | None = None, **busy: list[str]) -> list[Upload]:
    left_out = {"under_way": [], "busy": [], **busy}
    return [each.delivery for each in await record.due(now or time.time() + 1, limit=9, **left_out)]


def failed(at: float, **changes: object) -> Outcome:
    values = {"state": DeliveryState.PENDING, "code": 503, "fault": "503.", "next_at": at + 5, **changes}
    return Outcome(at=at, **values)  # type: ignore[arg-type]


async def test_an_upload_begins_with_its_video_and_with_no_other_end(
    store: TaskStore, ledger: RunLedger, record: UploadLedger, database: Database
) -> None:
    for name in ("cancelled", "running"):
        await store.submit(new(name, upload_url=URL.format(name)), ADMISSION)
    await store.cancel(EVERYONE, "cancelled")
    assert await ledger.claim("demo", "r") is not None and await due(record) == []
    done = await published(store, ledger, "a")
    (found,) = await due(record)
    assert (found.task_uid, found.url, found.attempts) == (done.uid, URL.format("a"), 0)
    assert await record.pending() == 1
    tasks = await store.list(EVERYONE, limit=9)
    assert await Uploads(database).of(tasks) == {done.uid: found}


async def test_an_upload_is_due_until_it_is_recorded_and_its_storage_may_rest(
    store: TaskStore, ledger: RunLedger, record: UploadLedger
) -> None:
    for name in ("a", "b"):
        await published(store, ledger, name)
    await published(store, ledger, "c", owner="alice")
    first, second, of_alice = await due(record)
    assert first.endpoint == second.endpoint != of_alice.endpoint  # of one owner and host
    assert len(await due(record, under_way=[first.id])) == 2
    assert await due(record, busy=[first.endpoint]) == [of_alice]
    now = time.time() + 1
    await record.record(first, failed(now, rests_until=now + 30))
    assert await due(record, now + 29) == [of_alice]
    again = (await due(record, now + 31))[-1]
    assert (again.id, again.attempts, again.last_code, again.last_fault) == (first.id, 1, 503, "503.")
    await record.record(again, Outcome(DeliveryState.DELIVERED, now, 200, None, None))
    assert await due(record, now + 1e6) == [second, of_alice]


async def test_only_the_message_of_a_success_waits_and_until_the_upload_has_ended(
    store: TaskStore, ledger: RunLedger, record: UploadLedger, database: Database
) -> None:
    hook = Callback("https://example.com/hook")
    done = await published(store, ledger, "a", callback=hook)
    deliveries = DeliveryLedger(database, ledger.epoch)
    now = time.time() + 1

    async def told() -> list[DeliveryState | None]:
        found = await deliveries.due(now, limit=9, under_way=[], busy=[])
        return [each.upload.state if each.upload else None for each in found]

    assert await told() == []
    (upload,) = await due(record)
    await record.record(upload, failed(now, state=DeliveryState.FAILED, next_at=None))
    assert await told() == [DeliveryState.FAILED]
    await store.submit(new("b", upload_url=URL.format("b"), callback=hook), ADMISSION)
    await store.cancel(EVERYONE, "b")
    assert sorted(await told(), key=str) == [None, DeliveryState.FAILED] and done.upload_url


async def test_what_a_version_before_published_is_begun_later_and_once(
    store: TaskStore, ledger: RunLedger, record: UploadLedger, database: Database
) -> None:
    done = await published(store, ledger, "a")
    async with database.write() as connection:  # that version stores none
        await connection.execute(delete(UPLOADS))
    for _ in range(2):
        await record.begin_missed()
    assert [each.task_uid for each in await due(record)] == [done.uid]


async def test_a_coordinator_that_was_replaced_neither_finds_nor_records(
    store: TaskStore, ledger: RunLedger, record: UploadLedger, database: Database
) -> None:
    await published(store, ledger, "a")
    (upload,) = await due(record)
    later = UploadLedger(database, (await RunLedger.take_lead(database, lease_s=30, grace_s=10)).epoch)
    with pytest.raises(Superseded):
        await due(record)
    with pytest.raises(Superseded):
        await record.record(upload, failed(time.time()))
    assert (await due(later))[0].attempts == 0


async def test_uploads_are_forgotten_with_their_task(
    store: TaskStore, ledger: RunLedger, record: UploadLedger, database: Database
) -> None:
    done = await published(store, ledger, "a")
    await record.forget()
    assert len(await due(record)) == 1
    await ledger.forget_ended(before=time.time() + 1)
    await record.forget()
    assert await Uploads(database).of([done]) == {} and await record.pending() == 0
