"""The state machine of a task: every state, and every legal move.

::

    queued ──claim──► running ──publish──► succeeded
      ▲ │               │ │ └──fail/lose──► failed
      │ └──cancel──┐    │ └──cancel──► cancelled
      └──requeue, hand_back──┘         queued ──reorder, put_first, reassign──► queued
                                       queued ──expire, strand──► failed
                                       running ──finish_early──► running

The store builds the WHERE of each UPDATE from this table, so no other move can happen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The state of a task."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
"""States that no move leaves."""


class Move(StrEnum):
    """A change of a task's state."""

    CLAIM = "claim"
    """A replica takes the task: the attempt is incremented."""
    REPORT = "report"
    """The runner reports progress: the lease is renewed."""
    PUBLISH = "publish"
    """The runner commits the finished video."""
    FAIL = "fail"
    """The model or the input raised an error: a retry would fail the same way."""
    REQUEUE = "requeue"
    """The runner is lost and attempts are left."""
    LOSE = "lose"
    """The runner is lost and no attempt is left."""
    HAND_BACK = "hand_back"
    """The runner stops before the end: this attempt does not count."""
    CANCEL = "cancel"
    """A client cancels the task."""
    REORDER = "reorder"
    """A client gives the waiting task another priority."""
    PUT_FIRST = "put_first"
    """A client puts the waiting task before all others of its owner and model."""
    FINISH_EARLY = "finish_early"
    """A client is content with what the run has made: it decodes that and ends."""
    EXPIRE = "expire"
    """The task has not begun before its deadline."""
    REASSIGN = "reassign"
    """The waiting task's model is not served any more: the one that replaces it makes the video. Or it keeps
    its model, and gets a note that a LoRA was removed.
    """
    STRAND = "strand"
    """The waiting task's model is not served any more, and none that could replace it."""


class Writer(StrEnum):
    """Who may make a move."""

    ANYBODY = "anybody"
    COORDINATOR = "coordinator"
    """The current coordinator of any service."""
    LEADER = "leader"
    """The current coordinator of the service that leads."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A legal move: the conditions in the WHERE of its UPDATE, and the new state."""

    sources: frozenset[Status]
    target: Status
    fenced: bool
    """True if only the current attempt may make the move."""
    writer: Writer = Writer.ANYBODY


_QUEUED = frozenset({Status.QUEUED})
_RUNNING = frozenset({Status.RUNNING})

TRANSITIONS: Mapping[Move, Transition] = {
    Move.CLAIM: Transition(_QUEUED, Status.RUNNING, fenced=False, writer=Writer.LEADER),
    Move.REPORT: Transition(_RUNNING, Status.RUNNING, fenced=True, writer=Writer.COORDINATOR),
    Move.PUBLISH: Transition(_RUNNING, Status.SUCCEEDED, fenced=True, writer=Writer.COORDINATOR),
    Move.FAIL: Transition(_RUNNING, Status.FAILED, fenced=True, writer=Writer.COORDINATOR),
    Move.REQUEUE: Transition(_RUNNING, Status.QUEUED, fenced=True, writer=Writer.COORDINATOR),
    Move.LOSE: Transition(_RUNNING, Status.FAILED, fenced=True, writer=Writer.COORDINATOR),
    Move.HAND_BACK: Transition(_RUNNING, Status.QUEUED, fenced=True, writer=Writer.COORDINATOR),
    Move.CANCEL: Transition(frozenset({Status.QUEUED, Status.RUNNING}), Status.CANCELLED, fenced=False),
    Move.REORDER: Transition(_QUEUED, Status.QUEUED, fenced=False),
    Move.PUT_FIRST: Transition(_QUEUED, Status.QUEUED, fenced=False),
    Move.FINISH_EARLY: Transition(_RUNNING, Status.RUNNING, fenced=False),
    Move.EXPIRE: Transition(_QUEUED, Status.FAILED, fenced=False, writer=Writer.LEADER),
    Move.REASSIGN: Transition(_QUEUED, Status.QUEUED, fenced=False, writer=Writer.LEADER),
    Move.STRAND: Transition(_QUEUED, Status.FAILED, fenced=False, writer=Writer.LEADER),
}
