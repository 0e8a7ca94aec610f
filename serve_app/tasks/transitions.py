"""The life of a task, written once: every state, and every move that may be made.

::

    queued ──claim──► running ──publish──► succeeded
      ▲ │               │ │ └──fail/lose──► failed
      │ └──cancel──┐    │ └──cancel──► cancelled
      └──requeue, hand_back──┘

The store builds the WHERE of each UPDATE from this table, so a move that is not here cannot happen.
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
"""States that are never left."""


class Move(StrEnum):
    """A change of a task's state."""

    CLAIM = "claim"
    """A replica takes it: the attempt counts up."""
    REPORT = "report"
    """Its runner is alive and has got this far: the lease is renewed."""
    PUBLISH = "publish"
    """Its runner hands over the finished video."""
    FAIL = "fail"
    """The model or the input raised: another run would end the same way."""
    REQUEUE = "requeue"
    """Its runner is lost and attempts are left."""
    LOSE = "lose"
    """Its runner is lost and no attempt is left."""
    HAND_BACK = "hand_back"
    """Its runner must stop before the end: this attempt does not count."""
    CANCEL = "cancel"
    """Somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One legal move, as the WHERE of its UPDATE asks for it."""

    sources: frozenset[Status]
    target: Status
    fenced: bool
    """Only the current attempt may make it."""
    led: bool
    """Only the coordinator that leads may make it."""


_RUNNING = frozenset({Status.RUNNING})

TRANSITIONS: Mapping[Move, Transition] = {
    Move.CLAIM: Transition(frozenset({Status.QUEUED}), Status.RUNNING, fenced=False, led=True),
    Move.REPORT: Transition(_RUNNING, Status.RUNNING, fenced=True, led=True),
    Move.PUBLISH: Transition(_RUNNING, Status.SUCCEEDED, fenced=True, led=True),
    Move.FAIL: Transition(_RUNNING, Status.FAILED, fenced=True, led=True),
    Move.REQUEUE: Transition(_RUNNING, Status.QUEUED, fenced=True, led=True),
    Move.LOSE: Transition(_RUNNING, Status.FAILED, fenced=True, led=True),
    Move.HAND_BACK: Transition(_RUNNING, Status.QUEUED, fenced=True, led=True),
    Move.CANCEL: Transition(
        frozenset({Status.QUEUED, Status.RUNNING}), Status.CANCELLED, fenced=False, led=False
    ),
}
