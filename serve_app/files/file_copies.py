"""Copies of stored files on this machine, for programs that read files; they go when nobody asks any more."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serve_app.files import durable

KEPT_S = 3600.0
"""Seconds for which a copy stays after it was last asked for."""


class FileCopies:
    """Copies in a folder that several processes of one machine may share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._swept_at = 0.0
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, key: str, fetch: Callable[[Path], None]) -> Path:
        """Return the copy of what has that key; without one, ``fetch`` writes it to the path it is given.

        Raises what ``fetch`` raises, and ``OSError``.
        """
        path = self._folder / key
        try:
            os.utime(path)
        except FileNotFoundError:
            self._sweep()
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = durable.temp_beside(path)
            try:
                fetch(temp)
                os.replace(temp, path)
            finally:
                temp.unlink(missing_ok=True)
        return path

    def _sweep(self) -> None:
        """Delete what has not been asked for in ``KEPT_S`` seconds; look at most ten times in that time."""
        now = time.time()
        with self._lock:
            if now - self._swept_at < KEPT_S / 10:
                return
            self._swept_at = now
        delete_unused(self._folder, KEPT_S)


def delete_unused(folder: Path, for_s: float) -> None:
    """Delete the files below ``folder`` that were neither written nor asked for in so many seconds."""
    now = time.time()
    for path in folder.rglob("*"):
        try:
            if path.is_file() and now - path.stat().st_mtime > for_s:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
