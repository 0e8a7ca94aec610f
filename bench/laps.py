"""The seconds of each phase of a run to its file."""

import time

from models.phase import Phase


class Laps:
    """A clock that is read where a phase begins; ``seconds`` are those of the last run."""

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {}
        self._phase: Phase | None = None
        self._began = 0.0

    def begin(self) -> None:
        """Forget the last run."""
        self.seconds, self._phase = {}, None

    def entered(self, phase: Phase | None) -> None:
        """Note the begin of a phase, and so the end of the one before; None ends the last one."""
        now = time.perf_counter()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._began
        self._phase, self._began = phase, now
