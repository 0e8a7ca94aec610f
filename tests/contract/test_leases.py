"""The check of leases: a silent run is given up, unless the coordinator could not have heard it."""

import pytest_asyncio
from sqlalchemy import update

from serve_app.config.settings import TaskSettings
from serve_app.coordinator.leases import Leases
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.tasks.task import Task
from tests.contract.tasks import claimed

HEARTBEAT_S = 2.0


class Checks:
    """Checks of a ledger with one run that is silent, at times that the test sets."""

    def __init__(self, database: Database, ledger: RunLedger) -> None:
        self._database = database
        self._now = 100.0
        self._given_up: list[Task] = []
        self._leases = Leases(
            ledger,
            self._keep_seat,
            self._given_up.append,
            self._given_up.append,
            TaskSettings(heartbeat_s=HEARTBEAT_S),
            clock=lambda: self._now,
        )

    async def _keep_seat(self) -> None:
        """Do nothing: the one coordinator keeps it."""

    async def is_given_up(self, *, after_s: float) -> bool:
        """Let the lease end, and check so many seconds after the last check."""
        async with self._database.write() as connection:
            await connection.execute(update(TASKS).values(lease_expires_at=1.0))
        self._now += after_s
        await self._leases.check()
        return bool(self._given_up)


@pytest_asyncio.fixture
async def checks(database: Database, store: TaskStore) -> Checks:
    ledger = await RunLedger.take_lead(database, lease_s=0, grace_s=0)
    await claimed(store, ledger)
    return Checks(database, ledger)


async def test_a_run_whose_lease_ends_while_its_coordinator_listens_is_given_up(checks: Checks) -> None:
    assert not await checks.is_given_up(after_s=0)  # the first check: it has heard nobody yet
    assert await checks.is_given_up(after_s=1)


async def test_a_run_may_report_first_to_a_coordinator_that_was_held_up(checks: Checks) -> None:
    await checks.is_given_up(after_s=0)
    assert not await checks.is_given_up(after_s=1 + HEARTBEAT_S + 0.1)
    assert await checks.is_given_up(after_s=1 + HEARTBEAT_S - 0.1)  # no report may be later than that
