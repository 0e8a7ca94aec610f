"""Progress lines every few seconds: part, step, figures and estimated time left."""

import time
from collections.abc import Callable

EVERY_S = 20.0


class Progress:
    """Progress of one part of ``steps`` steps, resumed at ``step``."""

    def __init__(self, part: str, step: int, steps: int, say: Callable[[str], None]) -> None:
        self._part = part
        self._steps = steps
        self._say = say
        self._since = time.monotonic(), step
        self._figures: dict[str, float] = {}

    def __call__(self, step: int, **figures: float) -> bool:
        """Record the ``figures`` of a step and print their means when a line is due. Return whether one was
        printed.
        """
        for name, figure in figures.items():
            self._figures[name] = self._figures.get(name, 0.0) + figure
        began, first = self._since
        passed = time.monotonic() - began
        if passed < EVERY_S and step < self._steps:
            return False
        done = max(step - first, 1)
        left_s = (self._steps - step) * passed / done
        means = ", ".join(f"{name} {total / done:.4g}" for name, total in self._figures.items())
        speed = f"{done / passed:.2f} steps/s, {_minutes(left_s)} left"
        self._say(f"{self._part}: step {step} of {self._steps}, {means}, {speed}")
        self._since, self._figures = (time.monotonic(), step), {}
        return True


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
