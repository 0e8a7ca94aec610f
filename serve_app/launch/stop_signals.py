"""SIGTERM and Ctrl-C as requests to stop."""

import signal
import threading
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Turns both signals into ``KeyboardInterrupt`` in the main thread, and remembers that one came."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether a signal has come."""
        return self._stopping.is_set()

    def listen(self) -> None:
        """Take both signals, also back from whoever has taken them since. Of the main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)

    def ignore(self) -> None:
        """Let further signals pass: another request to stop must not break the shutdown off half-way."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        self._stopping.set()
        raise KeyboardInterrupt
