"""The forecast: tasks begin in the coordinator's order, at the times at which replicas become free."""

import random
from pathlib import Path

import pytest

from serve_app.queue.forecast import Forecast, Forecaster, Speed
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.fair_share import FairClock, Share, Shares
from serve_app.tasks.task import NewTask, QueuedTask, TaskSpec

SPEC = TaskSpec("a cat", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)
SHARES: Shares = {"a": Share(), "b": Share(weight=2), "c": Share()}
CLOCK = FairClock()
ONE_A_UNIT = Speed(1.0)


def queued(
    seq: int, owner: str = "a", *, work: float = 10.0, priority: int = 0, tokens: int = 0
) -> QueuedTask:
    return QueuedTask(str(seq), "demo", owner, priority, seq, work, tokens)


def forecast(
    *tasks: QueuedTask,
    clock: FairClock = CLOCK,
    shares: Shares = SHARES,
    speed: Speed = ONE_A_UNIT,
    **more: object,
) -> Forecast:
    forecaster = Forecaster(tasks, clock, shares, speed=speed, **more)  # type: ignore[arg-type]
    while forecaster.advance(3):
        pass
    return forecaster.forecast()


@pytest.mark.slow
async def test_the_forecast_is_the_order_of_the_claims(tmp_path: Path):
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'tasks.db'}")
    await database.migrate()
    store, chance = TaskStore(database), random.Random(7)
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=SHARES)

    async def submit(number: int) -> None:
        owner, work = chance.choice("aaaabbc"), chance.choice([1.0, 2.5, 10.0])
        new = NewTask(
            f"u{number}", f"t{number}", "demo", SPEC, work, "x.mp4", chance.choice([0, 0, 0, 1]), owner=owner
        )
        await store.submit(new, Admission(1000, 3, 1))

    for number in range(60):
        await submit(number)
    for _ in range(25):  # so that the owners do not all stand at the beginning
        await ledger.claim("demo", "r")
    for number in range(60, 80):
        await submit(number)
    tasks = [task async for page in store.queue() for task in page]
    forecaster = Forecaster(tasks, (await store.clocks())["demo"], SHARES, speed=Speed())
    while forecaster.advance(7):
        pass
    places = forecaster.forecast().places
    claimed = [task.seq for _ in tasks if (task := await ledger.claim("demo", "r")) is not None]
    assert claimed == sorted(places, key=places.__getitem__) and len(claimed) == len(tasks) == 55
    await database.close()


def test_replicas_take_tasks_as_they_become_free():
    found = forecast(*(queued(seq) for seq in range(5)), replicas=3, runs=[(4.0, "a"), (30.0, "a")])
    assert found.starts_s == [0, 4, 10, 14, 20]
    assert found.next_start_s == 24


def test_tasks_of_a_size_take_as_long_as_that_size_took():
    speed = Speed(1.0, {7: 3.0})
    found = forecast(queued(1, tokens=7), queued(2, tokens=8), queued(3), speed=speed, replicas=1)
    assert found.starts_s == [0, 30, 40] and found.next_start_s == 50


@pytest.mark.parametrize("more", [{"replicas": 0}, {"replicas": 2, "speed": Speed()}])
def test_without_replicas_or_a_speed_only_the_order_is_told(more):
    found = forecast(queued(1), queued(2, priority=0), **more)
    assert [found.place(seq=seq, owner="a", priority=0) for seq in (1, 2)] == [0, 1]
    assert found.start_s(0) is None and found.start_s(9) is None


def test_an_owner_at_its_limit_starts_when_a_task_of_its_ends():
    shares = {"a": Share(max_running=1), "b": Share()}
    tasks = [queued(1, "a"), queued(2, "a"), queued(3, "b", work=4), queued(4, "b", work=4)]
    found = forecast(*tasks, shares=shares, replicas=2)
    starts = {seq: found.starts_s[place] for seq, place in found.places.items()}
    assert starts == {1: 0, 3: 0, 4: 4, 2: 10}
    assert found.next_start_s == 10, "beside the last one"


def test_a_limit_counts_runs_of_other_models_that_end_at_no_known_time():
    shares = {"a": Share(max_running=1)}
    found = forecast(queued(1), shares=shares, replicas=2, runs=[(5.0, "b")], running={"a": 1, "b": 1})
    assert found.starts_s == []
    assert found.start_s(found.place(seq=1, owner="a", priority=0)) == 5


def test_a_task_newer_than_the_look_stands_where_its_owners_turn_will_be():
    tasks = [queued(seq, "a") for seq in range(1, 9)] + [queued(9, "c"), queued(10, "c", priority=-1)]
    found = forecast(*tasks, replicas=1)
    order = sorted(found.places, key=found.places.__getitem__)
    assert order == [1, 9, 2, 3, 4, 5, 6, 7, 8, 10]
    assert found.place(seq=11, owner="a", priority=0) == 9, "behind its owner's, before lower priority"
    assert found.place(seq=11, owner="c", priority=0) == 3, "its owner has had as much as the other by then"
    assert found.place(seq=11, owner="b", priority=0) == 2, "beside the first two, which are older"
    assert found.place(seq=11, owner="a", priority=1) == 0
    assert found.place(seq=11, owner="a", priority=-2) == 10


def test_a_newer_task_is_placed_by_turns_also_where_a_limit_has_changed_their_order():
    shares = {"a": Share(max_running=1), "b": Share(weight=0.2), "c": Share()}
    tasks = [queued(1, "a"), queued(2, "a"), queued(3, "b", work=4), queued(4, "b", work=4)]
    found = forecast(*tasks, clock=FairClock(0.0, {"c": 15.0}), shares=shares, replicas=2)
    assert sorted(found.places, key=found.places.__getitem__) == [1, 3, 4, 2]
    assert found.place(seq=5, owner="c", priority=0) == 3


def test_without_shares_a_newer_task_stands_behind_all_of_its_priority():
    tasks = [queued(1, "a", priority=1), queued(2, "b"), queued(3, "a")]
    found = forecast(*tasks, shares={}, replicas=1)
    assert [found.places[seq] for seq in (1, 2, 3)] == [0, 1, 2]
    assert found.place(seq=4, owner="c", priority=1) == 1 and found.place(seq=4, owner="c", priority=0) == 3
