"""Runs that the service wants back before they end: first asked for, then taken."""

import time
from collections.abc import Awaitable, Callable

PATIENCE_S = 4.0
"""Seconds that a runner has to keep what it has done and to hand its task back."""


class HandBacks:
    """Asks the runners for their tasks, and takes the task of one that does not answer in time.

    ``take``: returns the task of a uid and attempt to the queue; its runner learns of that with its next
    report. ``runs_are_kept``: whether runners keep what they have done; where they do not, tasks are taken at
    once.
    """

    def __init__(
        self,
        take: Callable[[str, int], Awaitable[None]],
        *,
        runs_are_kept: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._patience_s = PATIENCE_S if runs_are_kept else 0.0
        self._clock = clock
        self._asked_at: dict[tuple[str, int], float] = {}

    async def want(self, uid: str, attempt: int) -> None:
        """Have a run handed back; call again until it is. Raises what ``take`` raises."""
        now = self._clock()
        if now - self._asked_at.setdefault((uid, attempt), now) >= self._patience_s:
            await self._take(uid, attempt)

    def is_wanted(self, uid: str, attempt: int) -> bool:
        """Return whether the runner is to hand the task back: part of the answer to its report."""
        return (uid, attempt) in self._asked_at
