"""Progress bar on one line of a terminal."""

import sys
import time


class StepBar:
    """A bar of the denoise steps done, and the estimated seconds left."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def __call__(self, step: int, total_steps: int) -> None:
        """Draw the bar with ``step`` of ``total_steps`` done."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        first, began = self._first
        left = f", {(total_steps - step) * (now - began) / (step - first):.0f} s left" if step > first else ""
        done = 30 * step // total_steps
        show(f"[{'#' * done:.<30}] step {step} of {total_steps}{left}")


def show(progress: str, end: str = "") -> None:
    """Show a line on a terminal, in place of the line before. Prints nothing to a log, where lines would pile
    up.
    """
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end=end, file=sys.stderr, flush=True)
