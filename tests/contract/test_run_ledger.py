"""The ledger's promises about runs: one runner at a time, no task lost, no write by a runner given up."""

import asyncio

import pytest
from sqlalchemy import update

from models.phase import Phase
from serve_app.errors import Draining
from serve_app.store.database import Database
from serve_app.store.leadership import Superseded
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import TaskError
from serve_app.tasks.transitions import Status
from tests.contract.tasks import ADMISSION, at, claimed, made, new


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
    reporting, first = await claimed(store, ledger, "c"), await claimed(store, ledger)
    await store.submit(new("b"), ADMISSION)
    goes_on, stale, published, second, nothing = await asyncio.gather(
        ledger.report(reporting.uid, 1, at(1, 0.5)),
        ledger.publish(first.uid, 7, made("stale")),
        ledger.publish(first.uid, 1, made("x", timings={"denoise_s": 1.5})),
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
        ledger.publish(first.uid, 1, made()),
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
    assert await ledger.report(task.uid, 1, at(3, 0.6))
    await ledger.give_up(task.uid, 1)
    await ledger.claim("demo", "replica-2")
    assert await ledger.report(task.uid, 2, at(1, 0.2))
    seen = await store.get(EVERYONE, "a")
    assert (seen.step, seen.progress) == (1, 0.6)


async def test_a_claim_forgets_the_phase_of_the_attempt_before(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    assert await ledger.report(task.uid, 1, at(1, 0.2, phase=Phase.DENOISING))
    assert (await store.get(EVERYONE, "a")).phase == "denoising"
    await ledger.give_up(task.uid, 1)
    second = await ledger.claim("demo", "replica-2")
    assert second is not None and second.phase == ""


async def test_a_runs_notes_replace_its_tasks_and_stay_without_new_ones(
    store: TaskStore, ledger: RunLedger
) -> None:
    task = await claimed(store, ledger)
    assert await ledger.report(task.uid, 1, at(1, 0.2, notes=("Shrunk.", "Cut.")))
    assert await ledger.report(task.uid, 1, at(2, 0.4))
    await ledger.give_up(task.uid, 1)
    second = await ledger.claim("demo", "replica-2")
    assert second is not None and second.notes == ("Shrunk.", "Cut.")
    assert not await ledger.report(task.uid, 1, at(2, 0.4, notes=("Stale.",)))
    assert (await store.get(EVERYONE, "a")).notes == ("Shrunk.", "Cut.")
    kept = await ledger.publish(task.uid, 2, made())
    assert kept is not None and kept.notes == ("Shrunk.", "Cut.")


async def test_the_notes_of_a_run_without_a_report_come_with_its_video(
    store: TaskStore, ledger: RunLedger
) -> None:
    task = await claimed(store, ledger)
    assert await ledger.publish(task.uid, 9, made("y", notes=("Stale.",))) is None
    published = await ledger.publish(task.uid, 1, made("x", notes=("Cut.",)))
    assert published is not None and published.notes == ("Cut.",)


async def test_a_published_result_never_changes(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    published = await ledger.publish(task.uid, 1, made("first.mp4", timings={"denoise_s": 1.5}))
    assert published is not None and (published.progress, published.timings) == (1.0, {"denoise_s": 1.5})
    assert await ledger.publish(task.uid, 1, made("second.mp4")) is None
    assert await ledger.fail(task.uid, 1, TaskError("model_error", "x")) is None
    assert await ledger.give_up(task.uid, 1) is None
    assert not (await store.cancel(EVERYONE, "a"))[1]
    assert await store.get(EVERYONE, "a") == published


async def test_a_published_task_has_the_steps_that_were_done_whatever_was_reported_last(
    store: TaskStore, ledger: RunLedger
) -> None:
    task = await claimed(store, ledger)
    assert await ledger.report(task.uid, 1, at(0, 0.0))
    published = await ledger.publish(task.uid, 1, made(step=3))
    assert published is not None and published.step == 3
    assert await store.get(EVERYONE, "a") == published


async def test_a_given_up_attempt_can_write_nothing(store: TaskStore, ledger: RunLedger) -> None:
    task = await claimed(store, ledger)
    await ledger.give_up(task.uid, 1)
    second = await ledger.claim("demo", "replica-2")
    assert second is not None and second.attempt == 2
    assert not await ledger.report(task.uid, 1, at(4, 0.9))
    assert await ledger.publish(task.uid, 1, made("stale.mp4")) is None
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


async def test_a_runner_that_was_heard_keeps_its_task_though_its_lease_ended_before_that_was_written(
    database: Database, store: TaskStore, ledger: RunLedger
) -> None:
    task = await claimed(store, ledger)
    async with database.write() as connection:  # as after a claim or a report that took longer than a lease
        await connection.execute(update(TASKS).values(lease_expires_at=1.0))
    assert await ledger.expire_leases() == []
    assert (await store.get(EVERYONE, "a")).status is Status.RUNNING
    successor = await RunLedger.take_lead(database, lease_s=30, grace_s=-1)
    assert [each.uid for each in await successor.expire_leases()] == [task.uid]


async def test_a_report_renews_the_lease(database: Database, store: TaskStore) -> None:
    short = await RunLedger.take_lead(database, lease_s=-1, grace_s=10)
    task = await claimed(store, short)
    long = await RunLedger.take_lead(database, lease_s=30, grace_s=-1)
    assert await long.report(task.uid, 1, at(1, 0.1))
    assert await long.expire_leases() == []


async def test_a_new_leader_stops_the_old_one_but_not_the_runs(database: Database, store: TaskStore) -> None:
    old = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    task = await claimed(store, old)
    new_leader = await RunLedger.take_lead(database, lease_s=30, grace_s=10)
    for write in (
        old.claim("demo", "r"),
        old.report(task.uid, 1, at(1, 0.1)),
        old.publish(task.uid, 1, made()),
        old.give_up(task.uid, 1),
    ):
        with pytest.raises(Superseded):
            await write
    assert await new_leader.publish(task.uid, 1, made()) is not None


async def test_only_ended_tasks_are_forgotten(store: TaskStore, ledger: RunLedger) -> None:
    done = await claimed(store, ledger, "done")
    await ledger.publish(done.uid, 1, made())
    await claimed(store, ledger, "running")
    await store.submit(new("queued"), ADMISSION)
    assert await ledger.forget_ended(before=done.created_at - 1) == []
    assert [task.id for task in await ledger.forget_ended(before=done.created_at + 60)] == ["done"]
    assert await ledger.known_uids() == {"uid-running", "uid-queued"}
    demand = await ledger.demand()
    assert (demand.queued, demand.running) == ({"demo": 1}, {"demo": frozenset({"uid-running"})})


async def test_a_claim_passes_over_a_task_that_is_cancelled_meanwhile(
    store: TaskStore, ledger: RunLedger
) -> None:
    for number in range(20):
        await store.submit(new(str(number)), ADMISSION)
    answers = await asyncio.gather(
        *(store.cancel(EVERYONE, str(number)) for number in range(10)),
        *(ledger.claim("demo", f"r{number}") for number in range(10)),
    )
    assert None not in answers[10:], "as many were left as were asked for"


async def test_a_drain_begins_no_task_and_keeps_those_that_wait(
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
    assert await ledger.report(running.uid, 1, at(1, 0.1)), "what runs may go on"

    handed_back = await ledger.hand_back(running.uid, 1)
    assert handed_back is not None and handed_back.attempts_left == ADMISSION.max_attempts
    assert not await ledger.report(running.uid, 1, at(2, 0.2))

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


async def test_the_revised_prompt_of_the_first_answer_stays_for_every_attempt(
    store: TaskStore, ledger: RunLedger
) -> None:
    await store.submit(new("a", enhance_prompt=True), ADMISSION)
    first = await ledger.claim("demo", "r1")
    assert first is not None and first.enhance_prompt and first.revised_prompt is None
    await ledger.report(first.uid, 1, at(0, 0.0))
    await ledger.report(first.uid, 1, at(0, 0.0, revised_prompt="A grey cat walks."))
    await ledger.report(first.uid, 1, at(1, 0.1))
    await ledger.give_up(first.uid, 1)
    second = await ledger.claim("demo", "r2")
    assert second is not None and second.revised_prompt == "A grey cat walks."
    stale = await ledger.report(first.uid, 1, at(2, 0.2, revised_prompt="Another."))
    done = await ledger.publish(first.uid, 2, made("x", revised_prompt="Yet another."))
    assert not stale and done is not None
    assert (done.revised_prompt, done.spec.prompt) == ("A grey cat walks.", "a cat")


async def test_a_revised_prompt_that_no_report_told_comes_with_the_video(
    store: TaskStore, ledger: RunLedger
) -> None:
    task = await claimed(store, ledger)
    done = await ledger.publish(task.uid, 1, made("x", revised_prompt="A grey cat walks."))
    assert done is not None and done.revised_prompt == "A grey cat walks."
