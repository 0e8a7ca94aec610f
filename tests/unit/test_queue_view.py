"""Places in the queue, estimates, and reads of the store that many requests share."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.queue.snapshot import QueueSnapshot
from serve_app.queue.view import QueueView
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import EVERYONE, Caller
from serve_app.tasks.fair_share import Share, Shares
from serve_app.tasks.pauses import Pauses
from serve_app.tasks.replica import Health, Replica, Scale
from serve_app.tasks.task import NewTask, Task, TaskSpec
from tests.contract.tasks import at

SPEC = TaskSpec("a cat", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)
ADMISSION = Admission(max_queued=100, max_attempts=3, retry_after_s=7)


@pytest.fixture
def store(database: Database) -> TaskStore:
    return TaskStore(database)


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


def view_of(store: TaskStore, fleet: Fleet, shares: Shares | None = None) -> QueueView:
    return QueueView(store, fleet, shares, seen_within_s=6.0)


async def submit(
    store: TaskStore, name: str, *, work: float = 10.0, priority: int = 0, model: str = "demo"
) -> Task:
    new = NewTask(f"u-{name}", name, model, SPEC, work, f"outputs/{name}.mp4", priority)
    return await store.submit(new, ADMISSION)


async def add_replicas(fleet: Fleet, number: int, model: str = "demo") -> None:
    for index in range(number):
        await fleet.saw(Replica(f"{model}-{index}", model, "cpu", 1, 4e9))


async def test_positions_follow_priority_then_arrival_within_a_model(store: TaskStore, fleet: Fleet):
    low = await submit(store, "low")
    await submit(store, "other", model="other", priority=9)
    high = await submit(store, "high", priority=5)
    later = await submit(store, "later")
    line = (await view_of(store, fleet).fresh()).line("demo")
    assert [line.place(task).position for task in (high, low, later)] == [1, 2, 3]


async def test_a_task_newer_than_the_look_stands_where_it_will(store: TaskStore, fleet: Fleet):
    await submit(store, "first")
    await submit(store, "second")
    line = (await view_of(store, fleet).fresh()).line("demo")
    assert line.place(await submit(store, "last")).position == 3
    assert line.place(await submit(store, "urgent", priority=1)).position == 1


async def test_there_is_no_estimate_before_a_rate_is_measured_or_without_replicas(
    store: TaskStore, fleet: Fleet
):
    task = await submit(store, "a")
    assert (await view_of(store, fleet).fresh()).line("demo").place(task).eta_s is None
    await fleet.learn("demo", 2.0)
    assert (await view_of(store, fleet).fresh()).line("demo").place(task).eta_s is None
    await add_replicas(fleet, 1)
    assert (await view_of(store, fleet).fresh()).line("demo").place(task).eta_s == 20.0


async def test_an_estimate_is_when_a_replica_comes_to_the_task_and_its_own_time(
    database: Database, store: TaskStore, fleet: Fleet
):
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    await fleet.learn("demo", 0.5)
    await add_replicas(fleet, 2)
    await submit(store, "running", work=40)
    claimed = await ledger.claim("demo", "demo-0")
    assert claimed is not None
    await ledger.report(claimed.uid, 1, at(1, 0.25))
    await submit(store, "beside", work=10)
    last = await submit(store, "last", work=6)
    line = (await view_of(store, fleet).fresh()).line("demo")
    assert line.place(await store.get(EVERYONE, "running")).eta_s == 0.75 * 40 * 0.5
    assert line.place(last).eta_s == (10 + 6) * 0.5
    assert line.place(last, age_s=3).eta_s == (10 + 6) * 0.5 - 3
    assert line.place(last, age_s=300).eta_s == 6 * 0.5


async def test_a_task_is_told_at_the_submit_what_its_status_then_says(
    database: Database, store: TaskStore, fleet: Fleet
):
    await fleet.learn("demo", 0.5)
    await add_replicas(fleet, 1)
    await submit(store, "first", work=10)
    snapshot = at_its_look(await view_of(store, fleet).fresh())
    new = NewTask("u-new", "new", "demo", SPEC, 6.0, "outputs/new.mp4")
    assert snapshot.told_s(new) == (10 + 6) * 0.5
    stored = await store.submit(replace(new, told_s=snapshot.told_s(new)), ADMISSION)
    assert snapshot.place(stored).eta_s == stored.told_s
    paused = replace(snapshot, pauses=Pauses(models={"demo"}))
    assert paused.told_s(new) is None


async def test_a_task_is_estimated_by_the_times_of_its_size(store: TaskStore, fleet: Fleet):
    await fleet.learn("demo", 1.0)
    await fleet.learn("demo", 3.0, tokens=7)
    await add_replicas(fleet, 1)
    new = NewTask("u", "large", "demo", SPEC, 10.0, "x.mp4", tokens=7)
    line = (await view_of(store, fleet).fresh()).line("demo")
    assert line.place(await store.submit(new, ADMISSION)).eta_s == 30.0


async def queue_of(database: Database, store: TaskStore, fleet: Fleet, owners: str) -> QueueSnapshot:
    """Return a queue of one replica: a run of 100 s, then tasks of 100 s of these owners, by first letter."""
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    await fleet.learn("demo", 10.0)
    await add_replicas(fleet, 1)
    await submit(store, "running")
    await ledger.claim("demo", "demo-0")
    for number, owner in enumerate(owners):
        new = NewTask(f"u{number}", f"t{number}", "demo", SPEC, 10.0, "x.mp4", owner=owner)
        await store.submit(new, ADMISSION)
    return await view_of(store, fleet, {"a": Share(), "b": Share()}).fresh()


async def test_a_full_queue_is_worth_another_try_when_as_many_places_are_free_as_it_takes(
    database: Database, store: TaskStore, fleet: Fleet
):
    snapshot = at_its_look(await queue_of(database, store, fleet, "aaab"))
    assert [snapshot.retry_after_s(limit) for limit in (4, 3, 2)] == [100, 200, 300]


async def test_a_key_at_its_limit_waits_for_one_of_its_own_to_start(
    database: Database, store: TaskStore, fleet: Fleet
):
    snapshot = at_its_look(await queue_of(database, store, fleet, "aaab"))  # taken as a b a a
    assert snapshot.own_retry_after_s(Caller("b", max_queued=1)) == 200
    assert snapshot.own_retry_after_s(Caller("a", max_queued=3)) == 100
    assert snapshot.own_retry_after_s(Caller("a", max_queued=2)) == 300


def at_its_look(snapshot: QueueSnapshot) -> QueueSnapshot:
    """Return the snapshot as of the moment at which it was taken, however slow the machine is."""
    return replace(snapshot, taken_at=math.inf)


@pytest.mark.parametrize(("rate", "seconds"), [(None, 10), (1e-9, 1), (1e9, 600)])
async def test_a_retry_is_asked_for_in_whole_seconds_within_bounds(
    store: TaskStore, fleet: Fleet, rate: float | None, seconds: int
):
    if rate is not None:
        await fleet.learn("demo", rate)
    await add_replicas(fleet, 1)
    await submit(store, "first")
    await submit(store, "second")
    assert (await view_of(store, fleet).fresh()).retry_after_s(1) == seconds


async def test_a_replica_is_free_while_less_is_under_way_than_there_are(store: TaskStore, fleet: Fleet):
    view = view_of(store, fleet)
    assert not (await view.fresh()).is_idle
    await add_replicas(fleet, 2)
    await submit(store, "one")
    assert (await view.fresh()).has_free_replica("demo")
    await submit(store, "two")
    assert not (await view.fresh()).has_free_replica("demo")
    await add_replicas(fleet, 1, "other")
    assert (await view.fresh()).is_idle


async def test_a_run_on_a_replica_that_drains_leaves_the_others_free(
    database: Database, store: TaskStore, fleet: Fleet
):
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    await fleet.learn("demo", 1.0)
    await add_replicas(fleet, 2)
    await submit(store, "on the one that drains", work=100)
    await ledger.claim("demo", "demo-0")
    await fleet.saw(Replica("demo-0", "demo", "cpu", 1, 4e9, Health.DRAINING))
    view = view_of(store, fleet)
    assert (await view.fresh()).has_free_replica("demo")
    first, second = await submit(store, "first"), await submit(store, "second")
    snapshot = at_its_look(await view.fresh())
    assert not snapshot.has_free_replica("demo")
    assert [snapshot.place(task).eta_s for task in (first, second)] == [10.0, 20.0]


async def test_a_model_that_scales_from_zero_takes_a_first_task(store: TaskStore, fleet: Fleet):
    view = view_of(store, fleet)
    await fleet.note_scale(Scale("demo", 0, failing=False))
    assert (await view.fresh()).is_idle and (await view.fresh()).has_free_replica("demo")
    await submit(store, "one")
    assert not (await view.fresh()).is_idle


async def test_a_model_that_cannot_start_takes_none(store: TaskStore, fleet: Fleet):
    await fleet.note_scale(Scale("demo", 1, failing=True))
    assert not (await view_of(store, fleet).fresh()).is_idle


async def test_a_model_that_does_not_scale_any_more_is_forgotten(store: TaskStore, fleet: Fleet):
    for name in ("demo", "other"):
        await fleet.note_scale(Scale(name, 1, failing=False))
    await fleet.forget_scales(but=["other"])
    assert set(await fleet.scales()) == {"other"}


class CountingStore(TaskStore):
    """A store that counts the reads of its queue and holds each until the gate is open."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.looks = 0
        self.gate = asyncio.Event()

    async def queue(self):
        self.looks += 1
        await self.gate.wait()
        async for page in super().queue():
            yield page


async def test_many_requests_share_one_look(database: Database, fleet: Fleet):
    store = CountingStore(database)
    view = view_of(store, fleet)
    waiting = [asyncio.create_task(view.recent()) for _ in range(50)]
    await asyncio.sleep(0)
    store.gate.set()
    snapshots = await asyncio.gather(*waiting)
    assert store.looks == 1 and all(snapshot is snapshots[0] for snapshot in snapshots)


async def test_a_client_that_hangs_up_does_not_take_the_look_from_the_others(
    database: Database, fleet: Fleet
):
    store = CountingStore(database)
    view = view_of(store, fleet)
    first, second = asyncio.create_task(view.recent()), asyncio.create_task(view.recent())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    assert (await second).pending == 0
    assert store.looks == 1


async def test_after_a_failed_look_the_next_request_looks_again(tmp_path: Path):
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")
    view = view_of(TaskStore(database), Fleet(database))
    with pytest.raises(Exception, match="cannot be used at present"):
        await view.recent()
    await database.migrate()
    assert (await view.recent()).pending == 0
    await database.close()
