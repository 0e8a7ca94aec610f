"""The moves of a run as statements, made once: building one costs more than carrying it out.

Each takes ``of_uid``, ``of_attempt`` and ``epoch``, and the new values of its columns as ``new_…``. It
changes and returns a row only while the run is the current one and the epoch leads.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, case, exists, update
from sqlalchemy.sql.dml import ReturningUpdate

from serve_app.store.tables import LEADERSHIP, TASKS
from serve_app.tasks.transitions import TRANSITIONS, Move


def _new(column: str) -> Any:
    return bindparam(f"new_{column}", type_=TASKS.c[column].type)


_PROGRESS = _new("progress")
_ENDED = {"finished_at": _new("finished_at"), "lease_expires_at": None}
_FAILED = {**_ENDED, "error_code": _new("error_code"), "error_message": _new("error_message")}
_QUEUED = {"lease_expires_at": None, "step": 0}

CHANGES: Mapping[Move, Mapping[str, Any]] = {
    Move.REPORT: {
        "step": _new("step"),
        "progress": case((TASKS.c.progress > _PROGRESS, TASKS.c.progress), else_=_PROGRESS),
        "lease_expires_at": _new("lease_expires_at"),
    },
    Move.PUBLISH: {
        **_ENDED,
        "artifact": _new("artifact"),
        "timings": _new("timings"),
        "progress": 1.0,
    },
    Move.FAIL: _FAILED,
    Move.LOSE: _FAILED,
    Move.REQUEUE: _QUEUED,
    Move.HAND_BACK: {**_QUEUED, "attempts_left": TASKS.c.attempts_left + 1},
}


def _statement(move: Move) -> ReturningUpdate[Any]:
    transition = TRANSITIONS[move]
    (source,) = transition.sources
    return (
        update(TASKS)
        .where(
            TASKS.c.uid == bindparam("of_uid"),
            TASKS.c.status == source,
            TASKS.c.attempt == bindparam("of_attempt"),
            exists().where(LEADERSHIP.c.epoch == bindparam("epoch")),
        )
        .values(status=transition.target, **CHANGES[move])
        # Of a report nobody wants the whole task.
        .returning(TASKS.c.uid if move is Move.REPORT else TASKS)
    )


MOVES: Mapping[Move, ReturningUpdate[Any]] = {move: _statement(move) for move in CHANGES}
