"""The order of claims: priority, then the owner's turn, then the replica's cached LoRAs, then age."""

import asyncio
from dataclasses import replace

import pytest

from models.video_spec import LoraUse
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.fair_share import Share
from serve_app.tasks.task import NewTask
from tests.contract.tasks import ADMISSION, SPEC, made, new


async def shared(database: Database, **shares: Share) -> RunLedger:
    return await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=shares)


async def owners_of_claims(ledger: RunLedger, number: int, model: str = "demo") -> str:
    """Claim tasks and return the first letters of their owners."""
    tasks = [await ledger.claim(model, "r") for _ in range(number)]
    return "".join(task.owner[0] if task else "-" for task in tasks)


async def test_owners_take_turns_however_many_tasks_each_has(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(), bob=Share())
    for number in range(20):
        await store.submit(new(f"a{number}", owner="alice"), ADMISSION)
    for number in range(3):
        await store.submit(new(f"b{number}", owner="bob"), ADMISSION)
    assert await owners_of_claims(ledger, 10) == "abababaaaa"


async def test_turns_count_work_and_weights(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(), bob=Share(weight=2))
    for number in range(20):
        await store.submit(new(f"a{number}", owner="alice", work=10), ADMISSION)
        await store.submit(new(f"b{number}", owner="bob", work=5), ADMISSION)
    # Two to one in work is four to one in tasks of half the work.
    taken = await owners_of_claims(ledger, 20)
    assert (taken.count("a"), taken.count("b")) == (4, 16)


async def test_priority_goes_before_turns(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(), bob=Share())
    for number in range(4):
        await store.submit(new(f"a{number}", owner="alice", priority=1), ADMISSION)
    last = await store.submit(new("b", owner="bob"), ADMISSION)
    assert last.created_at > (await ledger.demand()).oldest["demo"]
    assert await owners_of_claims(ledger, 5) == "aaaab"


async def test_an_owner_who_comes_late_takes_turns_from_then_on(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(), bob=Share())
    for number in range(20):
        await store.submit(new(f"a{number}", owner="alice"), ADMISSION)
    assert await owners_of_claims(ledger, 10) == "a" * 10
    for number in range(9):
        await store.submit(new(f"b{number}", owner="bob"), ADMISSION)
    taken = await owners_of_claims(ledger, 8)
    assert abs(taken.count("a") - taken.count("b")) <= 1


async def test_turns_go_on_under_a_new_leader(database: Database, store: TaskStore) -> None:
    for number in range(5):
        await store.submit(new(f"a{number}", owner="alice"), ADMISSION)
        await store.submit(new(f"b{number}", owner="bob"), ADMISSION)
    taken = ""
    for _ in range(6):
        taken += await owners_of_claims(await shared(database, alice=Share(), bob=Share()), 1)
    assert taken == "ababab"


async def test_nothing_is_remembered_once_the_queue_is_empty(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(), bob=Share())
    await store.submit(new("a", owner="alice", work=1000), ADMISSION)
    assert await owners_of_claims(ledger, 1) == "a"
    for number in range(2):
        await store.submit(new(f"a{number}", owner="alice"), ADMISSION)
        await store.submit(new(f"b{number}", owner="bob"), ADMISSION)
    assert await owners_of_claims(ledger, 4) == "abab"
    assert await store.clocks() == {}


async def test_an_owner_at_its_limit_is_passed_over(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(max_running=2), bob=Share())
    for number in range(4):
        await store.submit(new(f"a{number}", owner="alice", priority=5), ADMISSION)
    await store.submit(new("other", owner="alice", model="big"), ADMISSION)
    assert (await ledger.demand()).ready == {"demo": 2, "big": 1}
    await store.submit(new("b", owner="bob"), ADMISSION)
    assert await owners_of_claims(ledger, 4) == "aab-"
    assert await owners_of_claims(ledger, 1, "big") == "-", "the limit is of all models"
    demand = await ledger.demand()
    assert demand.queued == {"demo": 2, "big": 1} and not any(demand.ready.values())
    assert not demand.oldest and demand.runners == {"r"}, "what a limit holds back waits for no replica"
    await ledger.publish("uid-a0", 1, made())
    assert await owners_of_claims(ledger, 2) == "a-"


async def test_claims_at_once_share_fairly_too(database: Database, store: TaskStore) -> None:
    ledger = await shared(database, alice=Share(), bob=Share())
    for number in range(20):
        await store.submit(new(f"a{number}", owner="alice"), ADMISSION)
        await store.submit(new(f"b{number}", owner="bob"), ADMISSION)
    tasks = await asyncio.gather(*(ledger.claim("demo", f"r{number}") for number in range(20)))
    assert sorted(task.owner for task in tasks if task) == ["alice"] * 10 + ["bob"] * 10


async def test_without_shares_it_does_not_matter_whose_a_task_is(store: TaskStore, ledger: RunLedger) -> None:
    for number in range(4):
        await store.submit(new(f"a{number}", owner="alice"), ADMISSION)
    await store.submit(new("b", owner="bob"), ADMISSION)
    assert await owners_of_claims(ledger, 5) == "aaaab"


def with_lora(name: str, lora: str | None, **changes: object) -> NewTask:
    return new(name, spec=replace(SPEC, loras=() if lora is None else (LoraUse(lora),)), **changes)


async def order(ledger: RunLedger, *loras: str) -> str:
    """Return the names in the order in which a replica that has ``loras`` takes them."""
    taken = ""
    while (task := await ledger.claim("demo", "r", loras)) is not None:
        taken += task.id
    return taken


@pytest.mark.parametrize(
    ("loras", "taken"),
    [((), "abcd"), (("ink",), "bdac"), (("oil",), "cabd"), (("ink", "oil"), "bcda"), (("tar",), "abcd")],
)
async def test_a_replica_first_takes_tasks_whose_lora_it_has(
    store: TaskStore, ledger: RunLedger, loras: tuple[str, ...], taken: str
) -> None:
    for name, lora in {"a": None, "b": "ink", "c": "oil", "d": "ink"}.items():
        await store.submit(with_lora(name, lora), ADMISSION)
    assert await order(ledger, *loras) == taken


async def test_several_loras_are_at_hand_together_or_not_at_all(store: TaskStore, ledger: RunLedger) -> None:
    both = replace(SPEC, loras=(LoraUse("ink"), LoraUse("oil")))
    for name, spec in {"a": SPEC, "b": both, "c": replace(SPEC, loras=(LoraUse("oil"),))}.items():
        await store.submit(new(name, spec=spec), ADMISSION)
    first = await ledger.claim("demo", "r", ["oil"])
    assert first is not None and first.id == "c"
    assert both.loras_key is not None
    assert await order(ledger, both.loras_key) == "ba"


async def test_a_lora_at_hand_comes_after_priority_and_the_owners_turn(
    database: Database, store: TaskStore
) -> None:
    shares = {"x": Share(), "y": Share()}
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=shares)
    await store.submit(with_lora("a", None, owner="x"), ADMISSION)
    await store.submit(with_lora("b", "ink", owner="x"), ADMISSION)
    await store.submit(with_lora("c", None, owner="y"), ADMISSION)
    await store.submit(with_lora("d", None, owner="x", priority=1), ADMISSION)
    assert await order(ledger, "ink") == "dcba"


async def test_a_task_without_the_lora_is_passed_by_a_few_only(store: TaskStore, ledger: RunLedger) -> None:
    await store.submit(with_lora("first", None), ADMISSION)
    for number in range(20):
        await store.submit(with_lora(f"ink{number}", "ink"), ADMISSION)
    taken = [(await ledger.claim("demo", "r", ["ink"])).id for _ in range(9)]  # type: ignore[union-attr]
    assert taken == [*(f"ink{number}" for number in range(8)), "first"]
