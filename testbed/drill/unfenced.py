"""The service without its fences, to show that the checker sees the faults that they prevent."""

from dataclasses import replace

from ray.serve import Application

import serve_app.app
from serve_app.coordinator.coordinator import Coordinator
from serve_app.store.move_statements import MoveStatements
from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.transitions import TRANSITIONS, Status, Writer

# The moves of a run from any state, by any attempt, under any epoch.
_UNFENCED = {
    move: replace(transition, sources=frozenset(Status), fenced=False, writer=Writer.ANYBODY)
    for move, transition in TRANSITIONS.items()
    if transition.fenced
}


class UnfencedCoordinator(Coordinator):
    """A coordinator whose ledger writes for any attempt: its import takes the fences out of that process."""


RunLedger.moves = MoveStatements({**TRANSITIONS, **_UNFENCED})


def build(args: dict[str, object]) -> Application:
    """Build the application of ``serve_app.app.build`` with the unfenced coordinator."""
    setattr(serve_app.app, "Coordinator", UnfencedCoordinator)  # noqa: B010  # mypy: a name app only imports
    return serve_app.app.build(args)
