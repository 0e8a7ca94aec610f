"""What the drills count of attempts, by the database."""

from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from testbed.drill.attempts import attempts_lost, runs_of
from tests.contract.tasks import claimed


async def test_an_attempt_that_is_used_up_is_counted_unless_its_run_was_killed(
    migrated_url: str, store: TaskStore, ledger: RunLedger
) -> None:
    task = await claimed(store, ledger)
    assert await attempts_lost(migrated_url, 3) == 0
    assert await runs_of(migrated_url, ledger.seat.generation) == [task.uid]
    assert await runs_of(migrated_url, ledger.seat.generation + 1) == []
    await ledger.give_up(task.uid, 1)
    assert await runs_of(migrated_url, ledger.seat.generation) == []
    await ledger.claim("demo", "r")
    assert await attempts_lost(migrated_url, 3) == 1
    assert await attempts_lost(migrated_url, 3, {task.uid: 1}) == 0
