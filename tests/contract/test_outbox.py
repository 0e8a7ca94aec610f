"""The outbox of webhooks, on each database: a message for each change, in its transaction."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from serve_app.store.database import Database
from serve_app.store.delivery_ledger import DeliveryLedger, Outcome
from serve_app.store.leadership import Superseded
from serve_app.store.outbox import Outbox
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.webhook import Callback, Delivery, DeliveryState, EventType
from tests.contract.tasks import ADMISSION, at, made, new

ALL = tuple(EventType)
HOOK = Callback("https://example.com/hook", ALL)
ERROR = TaskError("model_error", "The model failed.")


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


@pytest.fixture
def deliveries(database: Database, ledger: RunLedger) -> DeliveryLedger:
    return DeliveryLedger(database, ledger.epoch)


@pytest.fixture
def run(store: TaskStore, ledger: RunLedger) -> Callable[..., Awaitable[Task]]:
    """Submit a task with a callback and claim it."""

    async def claimed(name: str = "a", callback: Callback | None = HOOK, owner: str = "") -> Task:
        await store.submit(new(name, callback=callback, owner=owner), ADMISSION)
        task = await ledger.claim("demo", "r")
        assert task is not None
        return task

    return claimed


async def due(deliveries: DeliveryLedger, now: float | None = None) -> list[Delivery]:
    found = await deliveries.due(now or time.time() + 1, limit=9, under_way=[], busy=[])
    return [each.delivery for each in found]


def failed(at: float, **changes: object) -> Outcome:
    values = {"state": DeliveryState.PENDING, "code": 500, "fault": "500.", "next_at": at + 5, **changes}
    return Outcome(at=at, **values)  # type: ignore[arg-type]


async def test_each_end_and_each_start_is_told_and_nothing_else(
    store: TaskStore, ledger: RunLedger, outbox: Outbox, run
) -> None:
    published = await run("published")
    await ledger.report(published.uid, published.attempt, at(1, 0.5))
    ended = await ledger.publish(published.uid, published.attempt, made("a"))
    fails = await run("fails")
    await ledger.fail(fails.uid, fails.attempt, ERROR)
    again = await run("again")
    await ledger.hand_back(again.uid, again.attempt)
    await store.cancel(EVERYONE, "again")
    told = await outbox.of([published, fails, again])
    assert {uid: [each.type for each in messages] for uid, messages in told.items()} == {
        published.uid: [EventType.STARTED, EventType.SUCCEEDED],
        fails.uid: [EventType.STARTED, EventType.FAILED],
        again.uid: [EventType.STARTED, EventType.CANCELLED],
    }
    ids = [each.id for messages in told.values() for each in messages]
    assert len(set(ids)) == 6 and not any("." in id_ for id_ in ids)
    assert ended is not None and told[published.uid][1].occurred_at == ended.finished_at


async def test_a_lost_task_is_told_when_its_last_attempt_is_and_only_chosen_events_are(
    store: TaskStore, ledger: RunLedger, outbox: Outbox
) -> None:
    await store.submit(new("a", callback=Callback(HOOK.url, (EventType.FAILED,))), ADMISSION)
    for attempt in (1, 2, 3):
        claimed = await ledger.claim("demo", "r")
        assert claimed is not None and await outbox.of([claimed]) == {}
        await ledger.give_up(claimed.uid, attempt)
    task = await store.get(EVERYONE, "a")
    assert [each.type for each in (await outbox.of([task]))[task.uid]] == [EventType.FAILED]


async def test_a_move_that_is_refused_tells_nobody(ledger: RunLedger, outbox: Outbox, run) -> None:
    task = await run(callback=Callback(HOOK.url))
    assert await ledger.publish(task.uid, task.attempt + 1, made("a")) is None
    assert await outbox.of([task]) == {}


async def test_a_change_that_is_not_committed_leaves_no_message(
    database: Database, ledger: RunLedger, outbox: Outbox, run
) -> None:
    task = await run(callback=Callback(HOOK.url))
    await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    # The two share a transaction, which the new epoch rolls back.
    ends = await asyncio.gather(
        ledger.publish(task.uid, task.attempt, made("a")),
        ledger.publish(task.uid, task.attempt, made("b")),
        return_exceptions=True,
    )
    assert all(isinstance(end, Superseded) for end in ends)
    assert await outbox.of([task]) == {}


async def test_a_message_is_due_until_its_delivery_is_recorded(
    deliveries: DeliveryLedger, outbox: Outbox, run
) -> None:
    task = await run()
    now = time.time() + 1
    (first,) = await due(deliveries)
    assert await due(deliveries, now - 3600) == []
    await deliveries.record(first, failed(now))
    assert await due(deliveries, now + 4) == []
    (again,) = await due(deliveries, now + 5)
    assert (again.id, again.attempts, again.last_code, again.last_fault) == (first.id, 1, 500, "500.")
    await deliveries.record(again, Outcome(DeliveryState.DELIVERED, now, 204, None, None))
    assert await due(deliveries, now + 1e6) == []
    await outbox.resend(task)
    (resent,) = await due(deliveries, now + 1e6)
    assert (resent.id, resent.attempts) == (first.id, 0)


async def test_what_is_under_way_or_goes_to_a_busy_receiver_is_not_due(
    deliveries: DeliveryLedger, run
) -> None:
    for name, url in (("a", "https://one"), ("b", "https://two"), ("c", "https://two")):
        await run(name, Callback(url, ALL))
    one, two, three = await due(deliveries)
    assert one.endpoint != two.endpoint == three.endpoint
    now = time.time() + 1
    left = await deliveries.due(now, limit=9, under_way=[two.id], busy=[one.endpoint])
    assert [each.delivery.id for each in left] == [three.id]
    first = await deliveries.due(now, limit=1, under_way=[], busy=[])
    assert [each.delivery.id for each in first] == [one.id]


async def test_a_resting_receiver_of_one_key_is_left_alone_and_no_other(
    deliveries: DeliveryLedger, run
) -> None:
    for name, owner in (("a", "alice"), ("b", "alice"), ("c", "bob")):
        await run(name, owner=owner)
    first, second, of_bob = await due(deliveries)
    now = time.time() + 1
    await deliveries.record(first, failed(now, rests_until=now + 30))
    assert [each.id for each in await due(deliveries, now + 29)] == [of_bob.id]
    assert {each.id for each in await due(deliveries, now + 30)} == {first.id, second.id, of_bob.id}


async def test_a_receiver_that_is_gone_gets_no_further_message_of_that_key(
    deliveries: DeliveryLedger, ledger: RunLedger, outbox: Outbox, run
) -> None:
    tasks = [await run(name, owner=owner) for name, owner in (("a", "alice"), ("b", "alice"), ("c", "bob"))]
    first, second, of_bob = await due(deliveries)
    now = time.time() + 1
    gone = failed(now, state=DeliveryState.DISABLED, code=410, next_at=None)
    await deliveries.record(first, gone)
    await deliveries.record(second, failed(now, rests_until=now + 1))  # which was under way
    later = await run("later", owner="alice")
    told = await outbox.of([tasks[0], later])
    assert [each.state for messages in told.values() for each in messages] == [DeliveryState.DISABLED] * 2
    assert of_bob.id in [each.id for each in await due(deliveries, now + 1)]
    await outbox.resend(later)
    await ledger.fail(later.uid, later.attempt, ERROR)
    assert [each.state for each in (await outbox.of([later]))[later.uid]] == [DeliveryState.PENDING] * 2


async def test_a_coordinator_that_does_not_lead_neither_finds_nor_records(
    database: Database, deliveries: DeliveryLedger, outbox: Outbox, run
) -> None:
    task = await run()
    (message,) = await due(deliveries)
    await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    with pytest.raises(Superseded):
        await due(deliveries)
    with pytest.raises(Superseded):
        await deliveries.record(message, Outcome(DeliveryState.DELIVERED, 1.0, 200, None, None))
    await deliveries.forget()
    assert (await outbox.of([task]))[task.uid][0].attempts == 0


async def test_messages_are_forgotten_with_their_task(
    deliveries: DeliveryLedger, ledger: RunLedger, outbox: Outbox, run
) -> None:
    ended, goes_on = await run("a"), await run("b")
    for message in await due(deliveries):
        await deliveries.record(message, failed(time.time(), state=DeliveryState.DISABLED, next_at=None))
    await ledger.fail(ended.uid, ended.attempt, ERROR)
    await ledger.forget_ended(before=time.time() + 1)
    await deliveries.forget()
    assert set(await outbox.of([ended, goes_on])) == {goes_on.uid}
