"""The pace of a run's reports: slower the longer the coordinator takes to answer one."""

import time
from collections.abc import Awaitable
from typing import TypeVar

_RESTS = 10
"""Times as long as the last answer took, the next report waits."""
T = TypeVar("T")


class ReportPace:
    """How long a run is to rest between two reports, ``longest_s`` seconds at most.

    Many runs of short steps would otherwise ask more of a coordinator than it can answer.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self.rest_s = 0.0
        """Seconds to rest before the next report."""

    async def timed(self, answer: Awaitable[T]) -> T:
        """Return the answer to a report, and take the pace from the time that it took."""
        began = time.monotonic()
        answered = await answer
        self.rest_s = min(_RESTS * (time.monotonic() - began), self._longest_s)
        return answered
