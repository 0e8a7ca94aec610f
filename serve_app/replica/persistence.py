"""A run's persistence with a store of files that is away: it asks again until the store answers."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from serve_app.errors import StoreUnavailable

_Answer = TypeVar("_Answer")
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Persistence:
    """Asks again for up to ``patience_s`` seconds, and no more once ``abandoned`` is set."""

    def __init__(self, abandoned: threading.Event, patience_s: float) -> None:
        self._abandoned = abandoned
        self._patience_s = patience_s

    def ask(self, ask: Callable[[], _Answer]) -> _Answer:
        """Return what ``ask`` returns. Blocks. Raises its errors, ``StoreUnavailable`` only in the end."""
        ends_at = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except StoreUnavailable:
                if time.monotonic() >= ends_at or self._abandoned.wait(pause_s):
                    raise
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
