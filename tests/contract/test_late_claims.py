"""Claims whose answer comes late, or reaches nobody: none of them uses up an attempt."""

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from sqlalchemy import update

from models.phase import Phase
from serve_app.errors import StoreUnavailable
from serve_app.replica.coordinator_link import CoordinatorLink
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.replica import Health, Replica
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from tests.contract.tasks import ADMISSION, new

DEADLINE_S = 20
REPLICA = Replica("replica-1", "demo", "cpu", 1, 0.0, Health.READY, "")
AWAY = StoreUnavailable("The database does not answer; try again later.")


class Coordinator:
    """A handle to a coordinator that claims at once, and answers when ``answers`` is set."""

    def __init__(self, ledger: RunLedger) -> None:
        self._ledger = ledger
        self.claim = SimpleNamespace(remote=self._claim)
        self.hand_back = SimpleNamespace(remote=self._hand_back)
        self.claimed, self.answers = asyncio.Event(), asyncio.Event()
        self.outages = 0
        """Hand-backs that are told that the store is away."""

    async def _claim(self, model: str, runner: str, _ticket: str, loras: Collection[str]) -> Task | None:
        task = await self._ledger.claim(model, runner, loras)
        self.claimed.set()
        await self.answers.wait()
        return task

    async def _hand_back(self, uid: str, attempt: int) -> None:
        if self.outages:
            self.outages -= 1
            raise RayTaskError("hand_back", "", AWAY).as_instanceof_cause()  # as it comes through Ray
        await self._ledger.hand_back(uid, attempt)


@pytest.fixture
def coordinator(ledger: RunLedger) -> Coordinator:
    return Coordinator(ledger)


def claiming(coordinator: Coordinator, *, give_up_s: float = DEADLINE_S) -> "asyncio.Task[Task | None]":
    handle: Any = coordinator
    link = CoordinatorLink(handle, lambda: REPLICA, patience_s=0.01, give_up_s=give_up_s)
    return asyncio.create_task(link.claim("demo", "replica-1", "ticket", ()))


async def queued_again(store: TaskStore) -> Task:
    """Return the task once it waits again."""
    async with asyncio.timeout(DEADLINE_S):
        while (task := await store.get(EVERYONE, "a")).status is not Status.QUEUED:
            await asyncio.sleep(0.01)
    return task


async def test_a_claim_is_waited_for_longer_than_a_report(store: TaskStore, coordinator: Coordinator) -> None:
    await store.submit(new("a"), ADMISSION)
    claim = claiming(coordinator)
    await coordinator.claimed.wait()
    await asyncio.wait({claim}, timeout=0.1)  # ten times the patience with a report
    coordinator.answers.set()
    task = await claim
    assert task is not None and task.id == "a"


async def test_a_task_that_comes_after_the_patience_is_handed_back(
    store: TaskStore, coordinator: Coordinator
) -> None:
    await store.submit(new("a"), ADMISSION)
    assert await claiming(coordinator, give_up_s=0.05) is None
    await coordinator.claimed.wait()
    coordinator.outages = 2
    coordinator.answers.set()
    assert (await queued_again(store)).attempts_left == ADMISSION.max_attempts
    assert not coordinator.outages


async def test_a_task_that_comes_to_a_replica_that_was_told_to_stop_is_handed_back(
    store: TaskStore, coordinator: Coordinator
) -> None:
    await store.submit(new("a"), ADMISSION)
    claim = claiming(coordinator)
    await coordinator.claimed.wait()
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim
    coordinator.answers.set()
    assert (await queued_again(store)).attempts_left == ADMISSION.max_attempts


async def test_a_claim_that_the_database_took_and_nobody_was_told_of_is_not_counted(
    database: Database, store: TaskStore, ledger: RunLedger
) -> None:
    await store.submit(new("a"), ADMISSION)
    claim = asyncio.create_task(ledger.claim("demo", "replica-1"))
    await asyncio.sleep(0)  # it is asked for now
    claim.cancel()
    async with asyncio.timeout(DEADLINE_S):
        while (await store.get(EVERYONE, "a")).status is not Status.RUNNING:
            await asyncio.sleep(0.01)
    async with database.write() as connection:
        await connection.execute(update(TASKS).values(lease_expires_at=1.0))
    (task,) = await ledger.expire_leases()
    assert (task.status, task.attempts_left) == (Status.QUEUED, ADMISSION.max_attempts)
    again = await ledger.claim("demo", "replica-2")
    assert again is not None and again.attempt == 2
    given_up = await ledger.give_up(again.uid, 2)  # a runner had this one
    assert given_up is not None and given_up.attempts_left == ADMISSION.max_attempts - 1


@pytest.mark.parametrize(("has_begun", "counted"), [(False, 0), (True, 1)])
async def test_a_claim_whose_coordinator_died_counts_once_its_runner_has_said_that_it_began(
    database: Database, store: TaskStore, ledger: RunLedger, has_begun: bool, counted: int
) -> None:
    await store.submit(new("a"), ADMISSION)
    task = await ledger.claim("demo", "replica-1")  # whose answer the replica may have got, or not
    assert task is not None
    if has_begun:
        await ledger.report(task.uid, 1, RunReport(0, 0.0, Phase.PREPARING))
    next_one = await RunLedger.take_lead(database, lease_s=30, grace_s=-1)
    (task,) = await next_one.expire_leases()
    assert (task.status, task.attempts_left) == (Status.QUEUED, ADMISSION.max_attempts - counted)


async def test_a_runner_that_was_given_its_task_and_never_spoke_has_used_up_an_attempt(
    database: Database, store: TaskStore
) -> None:
    ledger = await RunLedger.take_lead(database, lease_s=0.2, grace_s=0)
    await store.submit(new("a"), ADMISSION)
    assert await ledger.claim("demo", "replica-1") is not None
    async with asyncio.timeout(DEADLINE_S):
        while not (given_up := await ledger.expire_leases()):
            await asyncio.sleep(0.01)
    assert given_up[0].attempts_left == ADMISSION.max_attempts - 1
