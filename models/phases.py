"""Seconds that the phases of a start take, for the log."""

import time


class Phases:
    """A clock that is read at the end of each phase; its text is one entry for each, in order."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """Note the end of ``phase``, which began at the end of the one before."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        parts = [f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items()]
        return ", ".join([*parts, f"together {self._last - self._began:.1f} s"])
