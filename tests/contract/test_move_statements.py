"""The moves' statements: each changes a row from its own states alone, and only behind its fences."""

from collections.abc import Callable, Mapping

import pytest
from sqlalchemy import delete, select, update

from serve_app.store.database import Database
from serve_app.store.leadership import Seat
from serve_app.store.move_statements import MOVES, RunKey, Write
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import TaskError
from serve_app.tasks.transitions import Move, Status
from tests.contract.tasks import ADMISSION, at, made, new

ATTEMPT = 2
ERROR = TaskError("model_error", "The model failed.")
WRITES: Mapping[Move, Callable[[RunKey, int], Write]] = {
    Move.CLAIM: lambda run, seq: MOVES.claim(
        seq, Seat(run.epoch, 1, leads=True), runner="r", started_at=1.0, lease_expires_at=2.0
    ),
    Move.REPORT: lambda run, _: MOVES.report(run, at(1, 0.5), lease_expires_at=2.0),
    Move.PUBLISH: lambda run, _: MOVES.publish(run, made(), finished_at=1.0),
    Move.FAIL: lambda run, _: MOVES.fail(run, ERROR, finished_at=1.0),
    Move.LOSE: lambda run, _: MOVES.lose(run, ERROR, finished_at=1.0),
    Move.REQUEUE: lambda run, _: MOVES.requeue(run),
    Move.HAND_BACK: lambda run, _: MOVES.hand_back(run),
    Move.CANCEL: lambda run, _: MOVES.cancel(TASKS.c.uid == run.uid, finished_at=1.0),
    Move.REORDER: lambda run, _: MOVES.reorder(run.uid, priority=3),
    Move.PUT_FIRST: lambda run, _: MOVES.put_first(run.uid, place=-1),
    Move.FINISH_EARLY: lambda run, _: MOVES.finish_early(run.uid),
    Move.EXPIRE: lambda run, _: MOVES.expire(ERROR, epoch=run.epoch, finished_at=1.0),
    Move.REASSIGN: lambda run, _: MOVES.reassign(
        run.uid, epoch=run.epoch, model="new", work=1.0, tokens=1, notes=()
    ),
    Move.STRAND: lambda run, _: MOVES.strand(run.uid, ERROR, epoch=run.epoch, finished_at=1.0),
}
OF_THE_QUEUE = {Move.CLAIM, Move.REORDER, Move.PUT_FIRST, Move.EXPIRE, Move.REASSIGN, Move.STRAND}
FROM = {
    **{move: {Status.RUNNING} for move in Move},
    **{move: {Status.QUEUED} for move in OF_THE_QUEUE},
    Move.CANCEL: {Status.QUEUED, Status.RUNNING},
}
"""The legal sources of each move, written a second time so that a slip in the table of transitions shows."""
OF_A_RUN = set(Move) - OF_THE_QUEUE - {Move.CANCEL, Move.FINISH_EARLY}
"""The moves of one attempt."""
OF_A_COORDINATOR = set(Move) - {Move.CANCEL, Move.FINISH_EARLY, Move.REORDER, Move.PUT_FIRST}
OF_THE_LEADER = {Move.CLAIM, Move.EXPIRE, Move.REASSIGN, Move.STRAND}


async def changes(
    database: Database, store: TaskStore, move: Move, status: Status, *, attempt: int = ATTEMPT, epoch: int
) -> bool:
    """Return whether the move changes a task in ``status``."""
    await store.submit(new("a"), ADMISSION)
    async with database.write() as connection:
        await connection.execute(update(TASKS).values(status=status, attempt=ATTEMPT, expires_at=0.5))
    task = await store.get(EVERYONE, "a")
    write = WRITES[move](RunKey(task.uid, attempt, epoch), task.seq)
    async with database.write() as connection:
        await connection.execute(write.statement, write.values)
        after = await connection.scalar(select(TASKS.c.version))
        await connection.execute(delete(TASKS))  # so that the next one is alone
    return after != task.version


@pytest.mark.parametrize("move", Move)
async def test_a_move_is_made_from_its_own_states(
    database: Database, store: TaskStore, ledger: RunLedger, move: Move
) -> None:
    made = [status for status in Status if await changes(database, store, move, status, epoch=ledger.epoch)]
    assert set(made) == FROM[move]


@pytest.mark.parametrize("move", Move)
async def test_another_attempt_makes_no_move_of_a_run(
    database: Database, store: TaskStore, ledger: RunLedger, move: Move
) -> None:
    status = min(FROM[move])
    made = await changes(database, store, move, status, attempt=ATTEMPT - 1, epoch=ledger.epoch)
    assert made is (move not in OF_A_RUN)


@pytest.mark.parametrize("move", Move)
async def test_a_coordinator_that_was_replaced_makes_none_but_those_of_clients(
    database: Database, store: TaskStore, ledger: RunLedger, move: Move
) -> None:
    made = await changes(database, store, move, min(FROM[move]), epoch=ledger.epoch - 1)
    assert made is (move not in OF_A_COORDINATOR)


@pytest.mark.parametrize("move", Move)
async def test_beside_a_newer_service_a_coordinator_makes_the_moves_of_its_runs_and_none_of_the_queue(
    database: Database, store: TaskStore, ledger: RunLedger, move: Move
) -> None:
    await RunLedger.take_lead(database, service="newer", lease_s=30, grace_s=10)
    made = await changes(database, store, move, min(FROM[move]), epoch=ledger.epoch)
    assert made is (move not in OF_THE_LEADER)
