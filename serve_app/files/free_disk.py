"""Free disk space, measured at most once a second."""

import asyncio
import math
import time
from collections.abc import Callable

_MAX_AGE_S = 1.0


class FreeDisk:
    """The bytes left, at most a second old, against those that a new task may need.

    ``measure`` may block, so it runs in a thread.
    """

    def __init__(self, measure: Callable[[], int], least_bytes: int) -> None:
        self._measure = measure
        self._least_bytes = least_bytes
        self._bytes = 0
        self._measured_at = -math.inf

    async def is_low(self) -> bool:
        """Return whether the fullest disk that the service writes to has too little left."""
        if time.monotonic() - self._measured_at >= _MAX_AGE_S:
            try:
                self._bytes = await asyncio.to_thread(self._measure)
            except OSError:  # a folder that is not there has no room either
                self._bytes = 0
            self._measured_at = time.monotonic()
        return self._bytes < self._least_bytes
