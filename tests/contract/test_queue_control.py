"""What clients change in the queue, on each database: who goes first, pauses, and deadlines."""

import time
from dataclasses import replace

import pytest
from sqlalchemy import update

from models.video_spec import LoraUse
from serve_app.store.database import Database
from serve_app.store.outbox import Outbox
from serve_app.store.pause_book import PauseBook
from serve_app.store.run_ledger import EXPIRED, RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.store.workload import Workload
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.command import Command
from serve_app.tasks.fair_share import Share
from serve_app.tasks.transitions import Status
from serve_app.tasks.webhook import Callback, EventType
from tests.contract.tasks import ADMISSION, SPEC, at, made, new


@pytest.fixture
def book(database: Database) -> PauseBook:
    return PauseBook(database)


async def submit(store: TaskStore, *names: str, **changes: object) -> None:
    for name in names:
        await store.submit(new(name, **changes), ADMISSION)


async def claims(ledger: RunLedger, loras: tuple[str, ...] = ()) -> list[str]:
    """Claim all that may be claimed; return the ids in order."""
    found = []
    while task := await ledger.claim("demo", "r", loras):
        found.append(task.id)
    return found


async def listed(store: TaskStore) -> list[str]:
    return [task.id async for page in store.queue() for task in page]


async def test_a_task_that_is_put_first_goes_before_all_others_the_latest_one_before_it(
    store: TaskStore, ledger: RunLedger
) -> None:
    await submit(store, "a", "b", "c", "d")
    await submit(store, "high", priority=3)
    for name in ("c", "d"):
        task, was_queued = await store.put_first(EVERYONE, name)
        assert was_queued and task.priority == 3
    await submit(store, "late", priority=3)
    order = ["d", "c", "high", "late", "a", "b"]
    assert await listed(store) == order
    assert await claims(ledger) == order


async def test_another_priority_ends_being_first(store: TaskStore, ledger: RunLedger) -> None:
    await submit(store, "a", "b")
    await store.put_first(EVERYONE, "b")
    await store.reorder(EVERYONE, "b", 0)
    assert await claims(ledger) == ["a", "b"]


async def test_a_key_that_puts_a_task_first_takes_no_turn_of_another_key(
    database: Database, store: TaskStore
) -> None:
    shares = {"alice": Share(), "bob": Share()}
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=shares)
    await submit(store, "high", owner="bob", priority=1)
    await submit(store, "a1", "a2", owner="alice")
    await store.put_first(EVERYONE, "a2")
    assert await claims(ledger) == ["high", "a2", "a1"]


async def test_a_cached_lora_does_not_overtake_a_task_that_was_put_first(
    store: TaskStore, ledger: RunLedger
) -> None:
    await submit(store, "plain", "first")
    await submit(store, "styled", spec=replace(SPEC, loras=(LoraUse("clay"),)))
    await store.put_first(EVERYONE, "first")
    assert await claims(ledger, loras=("clay",)) == ["first", "styled", "plain"]


async def test_a_task_that_runs_is_not_put_first(store: TaskStore, ledger: RunLedger) -> None:
    await submit(store, "a")
    await claims(ledger)
    task, was_queued = await store.put_first(EVERYONE, "a")
    assert (task.status, was_queued) == (Status.RUNNING, False)


async def test_of_a_paused_owner_nothing_is_begun_until_it_resumes(
    database: Database, store: TaskStore, ledger: RunLedger, book: PauseBook
) -> None:
    await submit(store, "hers", owner="alice")
    await submit(store, "his", owner="bob")
    for _ in range(2):
        await book.pause_owner("alice")
    demand = await ledger.demand()
    assert (demand.queued["demo"], demand.ready["demo"]) == (2, 1)
    assert (await Workload.of(database, "demo", cap=1e9, seat=ledger.seat)).queued == 1
    assert await claims(ledger) == ["his"]
    await book.resume_owner("alice")
    assert (await ledger.demand()).ready["demo"] == 1
    assert await claims(ledger) == ["hers"]


async def test_of_a_paused_model_nothing_is_begun(
    database: Database, store: TaskStore, ledger: RunLedger, book: PauseBook
) -> None:
    await submit(store, "hers", owner="alice")
    await submit(store, "nobodys")
    await submit(store, "other", model="other")
    await book.pause_model("demo")
    assert await claims(ledger) == [] and (await ledger.demand()).ready == {"demo": 0, "other": 1}
    assert (await Workload.of(database, "demo", cap=1e9, seat=ledger.seat)).queued == 0
    other = await ledger.claim("other", "r")
    assert other is not None and other.id == "other"
    await book.resume_model("demo")
    assert await claims(ledger) == ["hers", "nobodys"]


async def test_without_keys_a_pause_is_of_everything(
    store: TaskStore, ledger: RunLedger, book: PauseBook
) -> None:
    await submit(store, "a")
    await book.pause_owner("")
    assert await claims(ledger) == []
    assert (await store.pauses()).hold("", "any") and not (await store.pauses()).hold("alice", "any")


async def test_a_task_that_has_not_begun_by_its_deadline_fails_and_is_told(
    database: Database, store: TaskStore, ledger: RunLedger
) -> None:
    hook = Callback("https://example.com/")
    await submit(store, "begins", expires_in_s=0.001)
    await claims(ledger)
    await submit(store, "late", expires_in_s=0.001, callback=hook)
    await submit(store, "in time", expires_in_s=600)
    await submit(store, "patient")
    assert (await store.get(EVERYONE, "in time")).expires_at == pytest.approx(time.time() + 600, abs=60)
    expired = await ledger.expire_waiting()
    assert [(task.id, task.status, task.error) for task in expired] == [("late", Status.FAILED, EXPIRED)]
    assert expired[0].finished_at is not None and expired[0].expires_at is None
    assert [each.type for each in (await Outbox(database).of(expired))[expired[0].uid]] == [EventType.FAILED]
    begun = await store.get(EVERYONE, "begins")
    assert (begun.status, begun.expires_at) == (Status.RUNNING, None)
    await ledger.give_up(begun.uid, begun.attempt)
    assert await ledger.expire_waiting() == []
    assert await listed(store) == ["begins", "in time", "patient"]


async def test_a_run_is_told_to_finish_early_at_its_next_report_and_its_successor_is_not(
    store: TaskStore, ledger: RunLedger
) -> None:
    await submit(store, "a")
    waiting, was_running = await store.finish_early(EVERYONE, "a")
    assert (waiting.status, was_running) == (Status.QUEUED, False)
    await claims(ledger)
    assert await ledger.report("uid-a", 1, at(1, 0.1)) == Command.GO_ON
    _, was_running = await store.finish_early(EVERYONE, "a")
    assert was_running
    assert await ledger.report("uid-a", 1, at(2, 0.2)) == Command.GO_ON | Command.FINISH
    await ledger.give_up("uid-a", 1)
    await claims(ledger)
    assert await ledger.report("uid-a", 1, at(3, 0.3)) == Command.LEAVE
    assert await ledger.report("uid-a", 2, at(1, 0.3)) == Command.GO_ON
    done = await ledger.publish("uid-a", 2, made("a", frames=3))
    assert done is not None and done.frames == 3
    assert not (await store.finish_early(EVERYONE, "a"))[1]


async def test_previews_are_asked_for_while_somebody_looks_and_for_a_moment_after(
    database: Database, store: TaskStore, ledger: RunLedger
) -> None:
    await submit(store, "a")
    await store.want_previews(await store.get(EVERYONE, "a"))
    await claims(ledger)
    assert await ledger.report("uid-a", 1, at(1, 0.1)) == Command.GO_ON
    looked_at = await store.get(EVERYONE, "a")
    await store.want_previews(looked_at)
    assert await ledger.report("uid-a", 1, at(1, 0.1)) == Command.GO_ON | Command.SHOW
    seen = await store.get(EVERYONE, "a")
    assert seen.previews_until is not None and seen.version == looked_at.version + 1
    await store.want_previews(seen)  # which writes nothing so soon
    assert (await store.get(EVERYONE, "a")).previews_until == seen.previews_until
    async with database.write() as connection:
        await connection.execute(update(TASKS).values(previews_until=time.time() - 1))
    assert await ledger.report("uid-a", 1, at(1, 0.1)) == Command.GO_ON
