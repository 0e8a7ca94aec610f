"""The departure of a run: just before its node goes, unless the run ends before that by its own estimate."""

import time
from collections.abc import Callable

from serve_app.replica.run_progress import RunProgress

Deadline = Callable[[], float | None]
"""Returns when the node goes, in the seconds of ``time.monotonic``; None while that is not known."""


def no_deadline() -> float | None:
    """Say that the node stays."""
    return None


class Departure:
    """Decides when a run leaves; what it has done by then is kept, if the service keeps checkpoints.

    ``margin_s``: seconds before the deadline by which the task is to be handed back. ``clock``: that of
    ``time.monotonic``.
    """

    def __init__(
        self,
        progress: RunProgress,
        deadline: Deadline,
        margin_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._deadline = deadline
        self._margin_s = margin_s
        self._clock = clock
        self.is_asked = False
        """True once the coordinator wants the task back."""

    @property
    def is_due(self) -> bool:
        """True if the run is to leave at its next step: another one would end too late."""
        left_s = self._left_s
        if left_s is None:
            return self.is_asked
        step_s, rest_s = self._progress.step_s, self._progress.rest_s
        ends_in_time = rest_s is not None and rest_s <= left_s
        return self.is_asked or (left_s <= (step_s or 0.0) and not ends_in_time)

    @property
    def is_late(self) -> bool:
        """True if the task must be handed back at once, whatever the engine is at."""
        left_s = self._left_s
        return left_s is not None and left_s <= -self._margin_s / 2

    @property
    def _left_s(self) -> float | None:
        deadline = self._deadline()
        return None if deadline is None else deadline - self._margin_s - self._clock()
