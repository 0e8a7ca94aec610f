"""The file of a SQLite database, which may be locked, damaged, on a full or read-only disk, or gone."""

import logging
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import DatabaseError, InternalError, OperationalError

from serve_app.errors import StoreUnavailable

_FAULTS = (DatabaseError, InternalError, OperationalError)
"""What SQLite raises of its file, by exact type: others below ``DatabaseError`` are of the statement."""
_PAUSE_S = 30.0
"""Between two lines of the log: many ask, and each is told."""
_ASK_AGAIN = "The database cannot be used at present; try again later."
_GONE = (
    "the database %s was deleted or replaced: nothing is written any more. Stop the service, put the "
    "database back (docs/operations/backup.md), and start it again"
)
_logger = logging.getLogger("ray.serve")


class SqliteFile:
    """The file that a process has opened first: what comes in its place later is not that database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, int] | None = None
        self._told_at = -math.inf

    def opened(self) -> None:
        """Note which file it is, once a connection has made or opened it."""
        if self._opened is None:
            self._opened = self._found()

    @asynccontextmanager
    async def reaching(self) -> AsyncIterator[None]:
        """Raise ``StoreUnavailable`` where the block cannot use the file, before it where that is another."""
        if self._opened is not None and self._found() != self._opened:
            self._tell(_GONE, self._path)
            raise StoreUnavailable(_ASK_AGAIN)
        try:
            yield
        except _FAULTS as error:
            if type(error) not in _FAULTS:
                raise
            self._tell("the database %s cannot be used: %s", self._path, error.orig)
            raise StoreUnavailable(_ASK_AGAIN) from error

    def _tell(self, message: str, *facts: object) -> None:
        if time.monotonic() - self._told_at >= _PAUSE_S:
            self._told_at = time.monotonic()
            _logger.error(message, *facts)

    def _found(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = os.stat(self._path)
            return found.st_dev, found.st_ino
        return None
