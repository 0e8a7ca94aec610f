"""Notes on standard error: what of the command line is left out, changed or guessed."""

import sys
from collections.abc import Iterable

from offline.progress import show


class Notes:
    """Prints each note once: every fragment of a video has those of its prompts."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, notes: Iterable[str]) -> None:
        """Print those of ``notes`` that are new."""
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                show("")  # nothing is to be left of the progress bar
                print(note, file=sys.stderr)
