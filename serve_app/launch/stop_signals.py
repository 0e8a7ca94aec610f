"""SIGTERM and Ctrl-C as requests to stop."""

import signal
import threading
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Converts both signals to ``KeyboardInterrupt`` in the main thread, and records that one has come."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """True once a signal has come."""
        return self._stopping.is_set()

    def listen(self) -> None:
        """Install the handlers, also over handlers installed since. Call from the main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)

    def ignore(self) -> None:
        """Ignore further signals: a second request to stop must not interrupt the shutdown."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        self._stopping.set()
        raise KeyboardInterrupt
