"""SQL statements of a task's moves: each is one UPDATE whose WHERE is built from the table of transitions.

The statements are built once, since building one takes longer than executing it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnElement,
    ScalarSelect,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate, Update

from serve_app.store.leadership import Seat, coordinates, leads
from serve_app.store.tables import SERVICES, TASKS
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import TaskError
from serve_app.tasks.transitions import TRANSITIONS, Move, Status, Transition, Writer


@dataclass(frozen=True, slots=True)
class RunKey:
    """The fencing tokens of a write: task, attempt, and epoch of the writing coordinator."""

    uid: str
    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Write:
    """A statement that returns the changed rows, but for a report's, and the values of its parameters."""

    statement: Update | ReturningUpdate[Any]
    values: Mapping[str, Any]


def _new(column: str) -> BindParameter[Any]:
    # SQLAlchemy reserves the columns' own names, so parameters need other ones.
    return bindparam(f"new_{column}", type_=TASKS.c[column].type)


_UID = bindparam("of_uid", type_=TASKS.c.uid.type)
_SEQ = bindparam("of_seq", type_=TASKS.c.seq.type)
_ATTEMPT = bindparam("of_attempt", type_=TASKS.c.attempt.type)
_EPOCH = bindparam("epoch", type_=SERVICES.c.epoch.type)
_RUNNER, _STEP, _PROGRESS = _new("runner"), _new("step"), _new("progress")
_STARTED_AT, _FINISHED_AT, _LEASE = _new("started_at"), _new("finished_at"), _new("lease_expires_at")
_PRIORITY, _PLACE, _PHASE = _new("priority"), _new("place"), _new("phase")
_MODEL, _WORK, _TOKENS = _new("model"), _new("work"), _new("tokens")
_ARTIFACT, _TIMINGS, _FRAMES = _new("artifact"), _new("timings"), _new("frames")
_REVISED = _new("revised_prompt")
# None, for a run that added no note, must become SQL's NULL and not JSON's.
_NOTES = bindparam("new_notes", type_=JSON(none_as_null=True))
_GENERATION = _new("generation")
_ERROR_CODE, _ERROR_MESSAGE = _new("error_code"), _new("error_message")


def _highest_beside() -> ScalarSelect[int | None]:
    """Build the highest priority among the queued tasks of the same owner and model."""
    other = TASKS.alias("other")
    return (
        select(func.max(other.c.priority))
        .where(
            other.c.status == Status.QUEUED,
            other.c.model == TASKS.c.model,
            other.c.owner == TASKS.c.owner,
        )
        .scalar_subquery()
    )


_TOLD = {
    # Those of a run include the task's; a run that added none has none to tell.
    "notes": func.coalesce(_NOTES, TASKS.c.notes),
    # The first one stands, so that all attempts are made of the same prompt.
    "revised_prompt": func.coalesce(TASKS.c.revised_prompt, _REVISED),
}
_ENDED = {"finished_at": _FINISHED_AT, "lease_expires_at": None}
_FAILED = {**_ENDED, "error_code": _ERROR_CODE, "error_message": _ERROR_MESSAGE}
_QUEUED = {"lease_expires_at": None, "step": 0}
_CHANGES: Mapping[Move, Mapping[str, Any]] = {
    Move.CLAIM: {
        "attempt": TASKS.c.attempt + 1,
        "attempts_left": TASKS.c.attempts_left - 1,
        "runner": _RUNNER,
        "generation": _GENERATION,
        "step": 0,
        "phase": "",
        "started_at": _STARTED_AT,
        "lease_expires_at": _LEASE,
        "expires_at": None,
        "finish_early": False,
    },
    Move.REPORT: {
        "step": _STEP,
        "phase": _PHASE,
        "progress": case((TASKS.c.progress > _PROGRESS, TASKS.c.progress), else_=_PROGRESS),
        "lease_expires_at": _LEASE,
        **_TOLD,
    },
    Move.PUBLISH: {
        **_ENDED,
        **_TOLD,
        "artifact": _ARTIFACT,
        "timings": _TIMINGS,
        "step": _STEP,
        "frames": _FRAMES,
        "progress": 1.0,
    },
    Move.FAIL: _FAILED,
    Move.LOSE: _FAILED,
    Move.REQUEUE: _QUEUED,
    Move.HAND_BACK: {**_QUEUED, "attempts_left": TASKS.c.attempts_left + 1},
    Move.CANCEL: {**_ENDED, "expires_at": None},
    Move.REORDER: {"priority": _PRIORITY, "place": 0},
    Move.PUT_FIRST: {"priority": _highest_beside(), "place": _PLACE},
    Move.FINISH_EARLY: {"finish_early": True},
    Move.EXPIRE: {**_FAILED, "expires_at": None},
    Move.REASSIGN: {"model": _MODEL, "work": _WORK, "tokens": _TOKENS, "notes": _NOTES},
    Move.STRAND: {**_FAILED, "expires_at": None},
}
"""Columns that each move sets in addition to the status."""

_WHICH: Mapping[Move, ColumnElement[bool]] = {
    Move.CLAIM: TASKS.c.seq == _SEQ,
    Move.EXPIRE: TASKS.c.expires_at <= _FINISHED_AT,
}
"""The tasks that a move is made of; of a move without an entry, the one of a uid."""

_FENCES = {Writer.COORDINATOR: coordinates, Writer.LEADER: leads}


class MoveStatements:
    """Builds the write of each move, which changes a row only as the table of transitions allows."""

    def __init__(self, transitions: Mapping[Move, Transition]) -> None:
        self._transitions = transitions
        # The caller of a cancel chooses the condition, so that statement is built at each call.
        self._statements: Mapping[Move, Update | ReturningUpdate[Any]] = {
            move: self._statement(move) for move in _CHANGES if move is not Move.CANCEL
        }

    def claim(
        self, seq: int, seat: Seat, *, runner: str, started_at: float, lease_expires_at: float
    ) -> Write:
        """Start the next attempt at the queued task with sequence number ``seq``, in the seat's service."""
        new = {
            _RUNNER: runner,
            _GENERATION: seat.generation,
            _STARTED_AT: started_at,
            _LEASE: lease_expires_at,
        }
        return self._write(Move.CLAIM, {_SEQ: seq, _EPOCH: seat.epoch, **new})

    def report(self, run: RunKey, report: RunReport, *, lease_expires_at: float) -> Write:
        """Renew the lease; the stored progress never decreases. The statement returns nothing, so that many
        reports can share it.
        """
        new = {
            _STEP: report.step,
            _PHASE: str(report.phase),
            _PROGRESS: report.progress,
            _LEASE: lease_expires_at,
            **_told(report),
        }
        return self._of(run, Move.REPORT, new)

    def publish(self, run: RunKey, result: RunResult, *, finished_at: float) -> Write:
        """End the task as succeeded."""
        new = {
            _ARTIFACT: result.artifact,
            _TIMINGS: dict(result.timings),
            _STEP: result.step,
            _FRAMES: result.frames,
            _FINISHED_AT: finished_at,
            **_told(result),
        }
        return self._of(run, Move.PUBLISH, new)

    def fail(self, run: RunKey, error: TaskError, *, finished_at: float) -> Write:
        """End the task as failed with an error of the model or the input."""
        return self._of(run, Move.FAIL, _failed(error, finished_at))

    def lose(self, run: RunKey, error: TaskError, *, finished_at: float) -> Write:
        """End the task as failed because no attempt is left."""
        return self._of(run, Move.LOSE, _failed(error, finished_at))

    def requeue(self, run: RunKey) -> Write:
        """Queue the task for another attempt."""
        return self._of(run, Move.REQUEUE, {})

    def hand_back(self, run: RunKey) -> Write:
        """Queue the task for another attempt, without counting this one."""
        return self._of(run, Move.HAND_BACK, {})

    def reorder(self, uid: str, *, priority: int) -> Write:
        """Give a queued task another priority."""
        return self._write(Move.REORDER, {_UID: uid, _PRIORITY: priority})

    def put_first(self, uid: str, *, place: int) -> Write:
        """Put a queued task before all others of its owner and model; ``place``: below that of any other."""
        return self._write(Move.PUT_FIRST, {_UID: uid, _PLACE: place})

    def finish_early(self, uid: str) -> Write:
        """Have the run of a task end with what it has made."""
        return self._write(Move.FINISH_EARLY, {_UID: uid})

    def expire(self, error: TaskError, *, epoch: int, finished_at: float) -> Write:
        """End all queued tasks as failed whose deadline is not after ``finished_at``."""
        return self._write(Move.EXPIRE, {_EPOCH: epoch, **_failed(error, finished_at)})

    def reassign(
        self, uid: str, *, epoch: int, model: str, work: float, tokens: int, notes: Sequence[str]
    ) -> Write:
        """Have another model make the video of a queued task; ``notes``: all that the task then has."""
        new = {_MODEL: model, _WORK: work, _TOKENS: tokens, _NOTES: list(notes)}
        return self._write(Move.REASSIGN, {_UID: uid, _EPOCH: epoch, **new})

    def strand(self, uid: str, error: TaskError, *, epoch: int, finished_at: float) -> Write:
        """End a queued task as failed whose model is not served any more."""
        return self._write(Move.STRAND, {_UID: uid, _EPOCH: epoch, **_failed(error, finished_at)})

    def cancel(self, *which: ColumnElement[bool], finished_at: float) -> Write:
        """Cancel the tasks that match all conditions and are not in a final state."""
        statement = self._statement(Move.CANCEL, *which)
        return Write(statement, {_FINISHED_AT.key: finished_at})

    def _of(self, run: RunKey, move: Move, new: Mapping[BindParameter[Any], Any]) -> Write:
        return self._write(move, {_UID: run.uid, _ATTEMPT: run.attempt, _EPOCH: run.epoch, **new})

    def _write(self, move: Move, values: Mapping[BindParameter[Any], Any]) -> Write:
        transition = self._transitions[move]
        # A statement accepts no values for parameters that it lacks.
        unasked = {_ATTEMPT: not transition.fenced, _EPOCH: transition.writer is Writer.ANYBODY}
        given = {each.key: value for each, value in values.items() if not unasked.get(each)}
        return Write(self._statements[move], given)

    def _statement(self, move: Move, *which: ColumnElement[bool]) -> Update | ReturningUpdate[Any]:
        transition = self._transitions[move]
        where = list(which) or [_WHICH.get(move, TASKS.c.uid == _UID)]
        where.append(or_(*(TASKS.c.status == source for source in sorted(transition.sources))))
        if transition.fenced:
            where.append(TASKS.c.attempt == _ATTEMPT)
        if transition.writer is not Writer.ANYBODY:
            where.append(_FENCES[transition.writer](_EPOCH))
        changes = {"status": transition.target, "version": TASKS.c.version + 1, **_CHANGES[move]}
        statement = update(TASKS).where(*where).values(changes)
        return statement if move is Move.REPORT else statement.returning(*TASKS.c)


def _told(told: RunReport | RunResult) -> Mapping[BindParameter[Any], Any]:
    return {_NOTES: list(told.notes) or None, _REVISED: told.revised_prompt}


def _failed(error: TaskError, finished_at: float) -> Mapping[BindParameter[Any], Any]:
    return {_ERROR_CODE: error.code, _ERROR_MESSAGE: error.message, _FINISHED_AT: finished_at}


MOVES = MoveStatements(TRANSITIONS)
