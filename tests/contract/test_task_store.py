"""The task store's promises. The suite runs on every database the service offers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from serve_app.errors import Draining, IdempotencyMismatch, OverQuota, QueueFull, TaskExists, TaskNotFound
from serve_app.tasks.caller import EVERYONE, Caller
from serve_app.tasks.database import Database
from serve_app.tasks.fair_share import Share
from serve_app.tasks.group_commit import Admission
from serve_app.tasks.ledger import RunLedger, Superseded
from serve_app.tasks.store import TaskStore
from serve_app.tasks.tables import METADATA
from serve_app.tasks.task import NewTask, Task, TaskError, VideoSpec
from serve_app.tasks.transitions import Status

SPEC = VideoSpec(
    prompt="a cat",
    negative_prompt="",
    width=64,
    height=64,
    num_frames=5,
    fps=16,
    steps=4,
    guidance_scale=5.0,
    guidance_scale_2=None,
    flow_shift=5.0,
    seed=1,
)
ADMISSION = Admission(max_queued=100, max_attempts=3, retry_after_s=7)


def new(name: str, **changes: object) -> NewTask:
    task = NewTask(
        uid=f"uid-{name}", id=name, model="demo", spec=SPEC, work=10.0, save_path=f"videos/{name}.mp4"
    )
    return replace(task, **changes)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> TaskStore:
    return TaskStore(database)


@pytest_asyncio.fixture
async def ledger(database: Database) -> RunLedger:
    return await RunLedger.take_lead(database, lease_s=30, grace_s=10)


async def claimed(store: TaskStore, ledger: RunLedger, name: str = "a") -> Task:
    await store.submit(new(name), ADMISSION)
    task = await ledger.claim("demo", "replica-1")
    assert task is not None
    return task


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
    assert not await ledger.report(task.uid, task.attempt, step=1, progress=0.1)
    assert await ledger.publish(task.uid, task.attempt, artifact="x", timings={}) is None
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


async def test_claims_go_by_priority_then_age_and_stay_within_the_model(
    store: TaskStore, ledger: RunLedger
) -> None:
    for name, priority, model in [
        ("old", 0, "demo"),
        ("young", 0, "demo"),
        ("urgent", 5, "demo"),
        ("x", 9, "big"),
    ]:
        await store.submit(new(name, priority=priority, model=model), ADMISSION)
    assert [queued.id async for page in store.queue() for queued in page] == ["x", "urgent", "old", "young"]
    order = [await ledger.claim("demo", "r") for _ in range(4)]
    assert [task.id if task else None for task in order] == ["urgent", "old", "young", None]


async def test_many_claims_at_once_give_each_task_to_one_runner(store: TaskStore, ledger: RunLedger) -> None:
    for number in range(20):
        await store.submit(new(str(number)), ADMISSION)
    tasks = await asyncio.gather(*(ledger.claim("demo", f"r{number}") for number in range(30)))
    taken = [task.id for task in tasks if task is not None]
    assert sorted(taken) == sorted(map(str, range(20)))


async def test_writes_at_once_share_a_commit_and_answer_each_for_itself(
    store: TaskStore, ledger: RunLedger
) -> None:
    first = await claimed(store, ledger)
    await store.submit(new("b"), ADMISSION)
    goes_on, stale, published, second, nothing = await asyncio.gather(
        ledger.report(first.uid, 1, step=1, progress=0.5),
        ledger.publish(first.uid, 7, artifact="stale", timings={}),
        ledger.publish(first.uid, 1, artifact="x", timings={"denoise_s": 1.5}),
        ledger.claim("demo", "replica-1"),
        ledger.claim("demo", "replica-2"),
    )
    assert goes_on and stale is None and nothing is None
    assert published is not None and (published.artifact, published.timings) == ("x", {"denoise_s": 1.5})
    assert second is not None and second.id == "b"
    assert await store.get(EVERYONE, "a") == published and await store.get(EVERYONE, "b") == second


async def test_of_writes_at_once_none_is_made_by_a_leader_of_before(
    database: Database, store: TaskStore, ledger: RunLedger
) -> None:
    first = await claimed(store, ledger)
    await store.submit(new("b"), ADMISSION)
    await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    answers = await asyncio.gather(
        ledger.claim("demo", "replica-1"),
        ledger.publish(first.uid, 1, artifact="x", timings={}),
        ledger.give_up(first.uid, 1),
        return_exceptions=True,
    )
    assert all(isinstance(answer, Superseded) for answer in answers)
    assert [(await store.get(EVERYONE, name)).status for name in "ab"] == [Status.RUNNING, Status.QUEUED]


async def test_a_claim_counts_the_attempt_and_starts_the_lease(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    assert (task.status, task.attempt, task.attempts_left, task.runner) == (Status.RUNNING, 1, 2, "replica-1")
    assert task.started_at is not None and task.lease_expires_at == pytest.approx(task.started_at + 30)


async def test_progress_never_falls(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    assert await ledger.report(task.uid, 1, step=3, progress=0.6)
    await ledger.give_up(task.uid, 1)
    await ledger.claim("demo", "replica-2")
    assert await ledger.report(task.uid, 2, step=1, progress=0.2)
    seen = await store.get(EVERYONE, "a")
    assert (seen.step, seen.progress) == (1, 0.6)


async def test_a_published_result_never_changes(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    published = await ledger.publish(task.uid, 1, artifact="first.mp4", timings={"denoise_s": 1.5})
    assert published is not None and (published.progress, published.timings) == (1.0, {"denoise_s": 1.5})
    assert await ledger.publish(task.uid, 1, artifact="second.mp4", timings={}) is None
    assert await ledger.fail(task.uid, 1, TaskError("model_error", "x")) is None
    assert await ledger.give_up(task.uid, 1) is None
    assert not (await store.cancel(EVERYONE, "a"))[1]
    assert await store.get(EVERYONE, "a") == published


async def test_a_given_up_attempt_can_write_nothing(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    await ledger.give_up(task.uid, 1)
    second = await ledger.claim("demo", "replica-2")
    assert second is not None and second.attempt == 2
    assert not await ledger.report(task.uid, 1, step=4, progress=0.9)
    assert await ledger.publish(task.uid, 1, artifact="stale.mp4", timings={}) is None
    assert await ledger.fail(task.uid, 1, TaskError("model_error", "x")) is None
    assert await ledger.hand_back(task.uid, 1) is None
    assert (await store.get(EVERYONE, "a")).status is Status.RUNNING


async def test_a_task_fails_as_worker_lost_after_its_last_attempt(
    store: TaskStore, ledger: RunLedger
) -> None:
    await store.submit(new("a"), ADMISSION)
    for attempt in (1, 2, 3):
        assert await ledger.claim("demo", "r") is not None
        task = await ledger.give_up("uid-a", attempt)
    assert task is not None and task.status is Status.FAILED
    assert task.error is not None and task.error.code == "worker_lost"
    assert await ledger.claim("demo", "r") is None


async def test_a_task_handed_back_has_lost_no_attempt(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    handed_back = await ledger.hand_back(task.uid, 1)
    assert handed_back is not None and (handed_back.status, handed_back.attempts_left) == (Status.QUEUED, 3)


async def test_an_expired_lease_queues_the_task_again(database: Database, store: TaskStore) -> None:
    ledger = await RunLedger.take_lead(database, lease_s=-1, grace_s=10)
    task = await claimed(store, ledger)
    assert [given_up.uid for given_up in await ledger.expire_leases()] == [task.uid]
    assert (await store.get(EVERYONE, "a")).status is Status.QUEUED
    assert await ledger.expire_leases() == []


async def test_a_report_renews_the_lease(database: Database, store: TaskStore) -> None:
    short = await RunLedger.take_lead(database, lease_s=-1, grace_s=10)
    task = await claimed(store, short)
    long = await RunLedger.take_lead(database, lease_s=30, grace_s=-1)
    assert await long.report(task.uid, 1, step=1, progress=0.1)
    assert await long.expire_leases() == []


async def test_a_new_leader_stops_the_old_one_but_not_the_runs(database: Database, store: TaskStore) -> None:
    old = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    task = await claimed(store, old)
    new_leader = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    for write in (
        old.claim("demo", "r"),
        old.report(task.uid, 1, step=1, progress=0.1),
        old.publish(task.uid, 1, artifact="x", timings={}),
        old.give_up(task.uid, 1),
    ):
        with pytest.raises(Superseded):
            await write
    assert await new_leader.publish(task.uid, 1, artifact="x", timings={}) is not None


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
async def test_cancel_is_final_and_said_once(store: TaskStore, ledger: RunLedger, running: bool) -> None:
    await store.submit(new("a"), ADMISSION)
    if running:
        await ledger.claim("demo", "r")
    assert [(await store.cancel(EVERYONE, "a"))[1] for _ in range(2)] == [True, False]
    assert await ledger.claim("demo", "r") is None
    assert not await ledger.report("uid-a", 1, step=1, progress=0.1)
    assert await ledger.publish("uid-a", 1, artifact="x", timings={}) is None
    assert (await store.get(EVERYONE, "a")).status is Status.CANCELLED


async def test_cancel_and_publish_at_once_have_one_winner(store: TaskStore, ledger: RunLedger) -> None:
    for number in range(20):
        task = await claimed(store, ledger, f"t{number}")
        (_, cancelled), published = await asyncio.gather(
            store.cancel(EVERYONE, task.id), ledger.publish(task.uid, 1, artifact="x", timings={})
        )
        assert cancelled == (published is None)
        assert (await store.get(EVERYONE, task.id)).status is (
            Status.CANCELLED if cancelled else Status.SUCCEEDED
        )


async def test_cancel_all_spares_what_has_ended(store: TaskStore, ledger: RunLedger) -> None:
    done = await claimed(store, ledger, "done")
    await ledger.publish(done.uid, 1, artifact="x", timings={})
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
        await ledger.publish(f"uid-{name}", 1, artifact=f"{name}.mp4", timings={})
        task = await store.published_at(EVERYONE, "same.mp4")
        assert task is not None and task.artifact == f"{name}.mp4"


async def test_only_ended_tasks_are_forgotten(store: TaskStore, ledger: RunLedger) -> None:
    done = await claimed(store, ledger, "done")
    await ledger.publish(done.uid, 1, artifact="x", timings={})
    await claimed(store, ledger, "running")
    await store.submit(new("queued"), ADMISSION)
    assert await ledger.forget_ended(before=done.created_at - 1) == []
    assert [task.id for task in await ledger.forget_ended(before=done.created_at + 60)] == ["done"]
    assert await ledger.known_uids() == {"uid-running", "uid-queued"}
    demand = await ledger.demand()
    assert (demand.queued, demand.running) == ({"demo": 1}, {"demo": frozenset({"uid-running"})})


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
    await ledger.publish("uid-a", 1, artifact="a.mp4", timings={})
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


async def shared(database: Database, **shares: Share) -> RunLedger:
    return await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=shares)


async def owners_of_claims(ledger: RunLedger, number: int, model: str = "demo") -> str:
    """The first letters of those whose tasks are taken next."""
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
    await store.submit(new("b", owner="bob"), ADMISSION)
    assert await owners_of_claims(ledger, 5) == "aaaab"


async def test_who_comes_late_takes_turns_from_then_on(database: Database, store: TaskStore) -> None:
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
    await ledger.publish("uid-a0", 1, artifact="x", timings={})
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


async def test_a_claim_passes_over_what_is_cancelled_meanwhile(store: TaskStore, ledger: RunLedger) -> None:
    for number in range(20):
        await store.submit(new(str(number)), ADMISSION)
    answers = await asyncio.gather(
        *(store.cancel(EVERYONE, str(number)) for number in range(10)),
        *(ledger.claim("demo", f"r{number}") for number in range(10)),
    )
    assert None not in answers[10:], "as many were left as were asked for"


async def test_a_drain_begins_nothing_and_keeps_what_waits(
    database: Database, store: TaskStore, ledger: RunLedger
) -> None:
    running = await claimed(store, ledger)
    await store.submit(new("waiting"), ADMISSION)
    await ledger.drain()
    assert await store.is_draining()
    assert await ledger.claim("demo", "replica-2") is None
    demand = await ledger.demand()
    assert (demand.queued, demand.ready) == ({"demo": 1}, {"demo": 0})
    with pytest.raises(Draining) as refused:
        await store.submit(new("late"), ADMISSION)
    assert refused.value.retry_after_s > 0
    assert await ledger.running() == [(running.uid, 1)]
    assert await ledger.report(running.uid, 1, step=1, progress=0.1), "what runs may go on"

    handed_back = await ledger.hand_back(running.uid, 1)
    assert handed_back is not None and handed_back.attempts_left == ADMISSION.max_attempts
    assert not await ledger.report(running.uid, 1, step=2, progress=0.2)

    successor = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    assert not await store.is_draining()
    assert [(await successor.claim("demo", "r")).id for _ in range(2)] == ["a", "waiting"]  # type: ignore[union-attr]
    with pytest.raises(Superseded):
        await ledger.drain()


async def test_an_idempotent_repeat_is_answered_in_a_drain(store: TaskStore, ledger: RunLedger) -> None:
    first = await store.submit(new("a", idempotency_key="k", digest="d"), ADMISSION)
    await ledger.drain()
    again = await store.submit(new("b", idempotency_key="k", digest="d"), ADMISSION)
    assert again.uid == first.uid


def with_lora(name: str, lora: str | None, **changes: object) -> NewTask:
    return new(name, spec=replace(SPEC, lora_name=lora), **changes)


async def order(ledger: RunLedger, *loras: str) -> str:
    """The names in the order in which a replica that has ``loras`` takes them."""
    taken = ""
    while (task := await ledger.claim("demo", "r", loras)) is not None:
        taken += task.id
    return taken


@pytest.mark.parametrize(
    ("loras", "taken"),
    [((), "abcd"), (("ink",), "bdac"), (("oil",), "cabd"), (("ink", "oil"), "bcda"), (("tar",), "abcd")],
)
async def test_a_replica_takes_what_it_has_the_lora_of_first(
    store: TaskStore, ledger: RunLedger, loras: tuple[str, ...], taken: str
) -> None:
    for name, lora in {"a": None, "b": "ink", "c": "oil", "d": "ink"}.items():
        await store.submit(with_lora(name, lora), ADMISSION)
    assert await order(ledger, *loras) == taken


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
