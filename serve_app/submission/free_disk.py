"""Free disk space, measured at most once a second."""

import asyncio
import math
import time
from collections.abc import Callable

_MAX_AGE_S = 1.0


class FreeDisk:
    """The bytes left, at most a second old. ``measure`` may block, so it runs in a thread."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._bytes = 0
        self._measured_at = -math.inf

    async def bytes(self) -> int:
        """Return the bytes left on the fullest disk that the service writes to."""
        if time.monotonic() - self._measured_at >= _MAX_AGE_S:
            self._bytes = await asyncio.to_thread(self._measure)
            self._measured_at = time.monotonic()
        return self._bytes
