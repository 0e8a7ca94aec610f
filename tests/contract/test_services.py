"""Two services on one database: the newer one leads, the older ends what it has begun, and back again."""

import pytest

from serve_app.errors import Draining
from serve_app.store.database import Database
from serve_app.store.delivery_ledger import DeliveryLedger
from serve_app.store.leadership import Superseded
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.command import Command
from serve_app.tasks.task import TaskError
from serve_app.tasks.transitions import Status
from serve_app.tasks.webhook import Callback
from tests.contract.tasks import ADMISSION, at, claimed, made, new

LEASE_S = 30.0


class Clock:
    """The time of all coordinators, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("serve_app.store.run_ledger.time.time", clock)
    return clock


async def start(database: Database, service: str, *, is_ready: bool = True) -> RunLedger:
    """Start a coordinator of a service."""
    return await RunLedger.take_lead(
        database, service=service, is_ready=is_ready, lease_s=LEASE_S, grace_s=10
    )


async def leads(ledger: RunLedger, *, is_ready: bool = True) -> bool:
    """Let the coordinator look after its seat; return whether its service leads."""
    return (await ledger.keep_seat(is_ready=is_ready)).leads


async def claims(ledger: RunLedger) -> bool:
    """Return whether the coordinator is given a task."""
    return await ledger.claim("demo", "r") is not None


async def test_the_service_that_starts_later_claims_and_the_older_ends_its_runs(
    database: Database, store: TaskStore
) -> None:
    old = await start(database, "old")
    first, second, third = [await claimed(store, old, name) for name in ("a", "b", "c")]
    await store.submit(new("d"), ADMISSION)
    newer = await start(database, "new")
    assert not await claims(old) and not await leads(old)
    assert (await old.demand()).ready == {"demo": 0}
    assert await old.report(first.uid, 1, at(1, 0.5)) & Command.GO_ON
    published = await old.publish(first.uid, 1, made())
    assert published is not None and published.status is Status.SUCCEEDED
    assert await old.fail(second.uid, 1, TaskError("model_error", "x")) is not None
    handed_back = await old.hand_back(third.uid, 1)
    assert handed_back is not None and handed_back.attempts_left == ADMISSION.max_attempts
    assert {(await newer.claim("demo", "r")).id for _ in range(2)} == {"c", "d"}  # type: ignore[union-attr]


async def test_each_service_counts_its_own_runs_alone(database: Database, store: TaskStore) -> None:
    old = await start(database, "old")
    ours = await claimed(store, old, "ours")
    newer = await start(database, "new")
    theirs = await claimed(store, newer, "theirs")
    assert await old.running() == [(ours.uid, 1)] and await newer.running() == [(theirs.uid, 1)]
    assert (await old.demand()).running == {"demo": {ours.uid}}
    assert (await newer.demand()).running == {"demo": {theirs.uid}}


async def test_a_coordinator_of_the_older_service_that_restarts_does_not_take_the_lead(
    database: Database, store: TaskStore
) -> None:
    old = await start(database, "old")
    run = await claimed(store, old)
    newer = await start(database, "new")
    again = await start(database, "old")
    await store.submit(new("b"), ADMISSION)
    assert not again.seat.leads and not await leads(again) and not await claims(again)
    assert await leads(newer)
    with pytest.raises(Superseded):
        await old.report(run.uid, 1, at(1, 0.5))
    assert await again.publish(run.uid, 1, made()) is not None
    assert await claims(newer)


async def test_a_coordinator_of_the_newer_service_that_restarts_leads_at_once(
    database: Database, store: TaskStore
) -> None:
    old = await start(database, "old")
    newer = await start(database, "new")
    again = await start(database, "new")
    assert again.seat.leads and again.seat.generation == newer.seat.generation
    assert not await leads(old)


async def test_the_older_service_takes_over_when_the_newer_is_silent_for_a_lease_and_no_sooner(
    database: Database, store: TaskStore, clock: Clock
) -> None:
    old, newer = await start(database, "old"), await start(database, "new")
    await store.submit(new("a"), ADMISSION)
    clock.now += LEASE_S
    assert not await leads(old)
    clock.now += 1
    assert await leads(old) and await claims(old)
    await store.submit(new("b"), ADMISSION)
    assert not await claims(newer), "it was only slow, and has not looked yet"
    assert await leads(newer) and not await leads(old)


async def test_a_service_that_looks_now_and_then_keeps_the_lead(
    database: Database, store: TaskStore, clock: Clock
) -> None:
    old, newer = await start(database, "old"), await start(database, "new")
    for _ in range(20):
        clock.now += LEASE_S / 4
        assert await leads(newer) and not await leads(old)


async def test_a_service_whose_models_are_loading_leads_only_where_no_other_is(
    database: Database,
) -> None:
    first = await start(database, "first", is_ready=False)
    assert first.seat.leads, "there is no other"
    assert await leads(first)
    newer = await start(database, "newer", is_ready=False)
    assert not newer.seat.leads and not await leads(newer, is_ready=False) and await leads(first)
    assert await leads(newer, is_ready=True) and not await leads(first)
    again = await start(database, "newer", is_ready=False)
    assert again.seat.leads, "its models are loaded, whoever its coordinator is"


async def test_a_service_that_is_stopped_hands_the_lead_to_one_that_lives(
    database: Database, store: TaskStore
) -> None:
    old, newer = await start(database, "old"), await start(database, "new")
    run = await claimed(store, newer)
    await newer.drain()
    assert not await store.is_draining()
    await store.submit(new("b"), ADMISSION)
    assert not await claims(newer) and not await leads(newer)
    assert await claims(old)
    assert await newer.running() == [(run.uid, 1)]
    assert await newer.publish(run.uid, 1, made()) is not None


async def test_a_service_that_is_stopped_beside_a_newer_one_has_no_submit_refused(
    database: Database, store: TaskStore
) -> None:
    old, newer = await start(database, "old"), await start(database, "new")
    await old.drain()
    await store.submit(new("a"), ADMISSION)
    assert await claims(newer)


async def test_the_last_service_that_is_stopped_has_submits_refused(
    database: Database, store: TaskStore, clock: Clock
) -> None:
    await start(database, "killed")
    clock.now += LEASE_S + 1
    old, newer = await start(database, "old"), await start(database, "new")
    await newer.drain()
    await old.drain()
    assert await store.is_draining()
    with pytest.raises(Draining):
        await store.submit(new("a"), ADMISSION)
    assert (await start(database, "next")).seat.leads
    await store.submit(new("a"), ADMISSION)


async def test_an_older_version_that_is_started_again_leads(database: Database, store: TaskStore) -> None:
    await start(database, "old")
    newer = await start(database, "new")
    back = await start(database, "old, started again")
    assert back.seat.leads and not await leads(newer)


async def test_a_cancel_reaches_a_run_of_either_service(database: Database, store: TaskStore) -> None:
    old = await start(database, "old")
    run = await claimed(store, old)
    await start(database, "new")
    await store.cancel(EVERYONE, run.id)
    assert not await old.report(run.uid, 1, at(1, 0.5))


async def test_the_leader_gives_up_a_run_of_a_service_that_is_dead(
    database: Database, store: TaskStore, clock: Clock
) -> None:
    old = await start(database, "old")
    run = await claimed(store, old)
    newer = await start(database, "new")
    assert await newer.expire_leases() == []
    clock.now += 2 * LEASE_S + 1
    assert [task.uid for task in await newer.expire_leases()] == [run.uid]
    assert await old.publish(run.uid, 1, made()) is None


async def test_the_leader_gives_up_a_run_that_is_silent_in_another_service(
    database: Database, store: TaskStore, clock: Clock
) -> None:
    old = await start(database, "old")
    run = await claimed(store, old)
    newer = await start(database, "new")
    clock.now += LEASE_S + 1
    await leads(old)  # its coordinator is there, and would have renewed the lease
    assert [task.uid for task in await newer.expire_leases()] == [run.uid]


async def test_a_run_goes_on_while_the_coordinator_of_its_service_is_replaced(
    database: Database, store: TaskStore, clock: Clock
) -> None:
    run = await claimed(store, await start(database, "old"))
    newer = await start(database, "new")
    clock.now += 2 * LEASE_S - 1
    await leads(newer)
    assert await newer.expire_leases() == []
    again = await start(database, "old")
    assert await newer.expire_leases() == []
    assert await again.report(run.uid, 1, at(1, 0.5))


async def test_the_leader_alone_deletes_ended_tasks_and_sends_messages(
    database: Database, store: TaskStore
) -> None:
    old = await start(database, "old")
    await store.submit(new("a", callback=Callback("https://example.com/")), ADMISSION)
    run = await old.claim("demo", "r")
    assert run is not None and await old.publish(run.uid, 1, made()) is not None
    newer = await start(database, "new")
    now = run.created_at + 3600
    due = {"limit": 9, "under_way": [], "busy": []}
    assert await DeliveryLedger(database, old.epoch).due(now, **due) == []  # type: ignore[arg-type]
    (message,) = await DeliveryLedger(database, newer.epoch).due(now, **due)  # type: ignore[arg-type]
    assert message.task.uid == run.uid
    assert await old.forget_ended(before=now) == []
    assert [task.uid for task in await newer.forget_ended(before=now)] == [run.uid]
