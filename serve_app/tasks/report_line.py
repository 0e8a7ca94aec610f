"""The report line: text in which replicas tell the coordinator of themselves and of their runs.

A replica sends the token that it was given, then one line of JSON for each heartbeat or report, and waits
for the line that answers it before the next.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter

from serve_app.tasks.replica import Replica
from serve_app.tasks.run_report import RunReport

UNANSWERED = b"!\n"
"""The answer where there is none: the coordinator could not take the report."""
LONGEST_LINE = 2**20
"""Bytes that a line may have."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a coordinator listens, and the token by which it knows its replicas."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Told:
    """The report of an attempt at a task."""

    uid: str
    attempt: int
    report: RunReport


_LINE: TypeAdapter[Told | Replica] = TypeAdapter(Told | Replica)


def line_of(told: Told | Replica) -> bytes:
    """Return a report or a heartbeat as a line."""
    return _LINE.dump_json(told) + b"\n"


def told_by(line: bytes) -> Told | Replica:
    """Return the report or heartbeat of a line; what a later version adds is left out.

    Raises ``ValueError``.
    """
    return _LINE.validate_json(line)
