"""The file of a SQLite database, which may be locked, damaged, on a full or read-only disk, or gone."""

import logging
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import DatabaseError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from serve_app.errors import StoreUnavailable

_FAULTS = (DatabaseError, InternalError, OperationalError)
"""What SQLite raises of its file, by exact type: others below ``DatabaseError`` are of the statement."""
_PAUSE_S = 30.0
"""Between two lines of the log: many ask, and each is told."""
_ADVICE = {
    "locked": "find the program that holds its lock, as a backup may (lsof), and end it",
    "readonly": "have its file, its folder and their disk be writable again",
    "full": "make room on its disk",
    "malformed": "stop the service and put a backup in its place (docs/operations/backup.md)",
    "not a database": "stop the service and put a backup in its place (docs/operations/backup.md)",
}
"""What to do about SQLite's errors, by a word of each."""
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
            self._tell("the database %s cannot be used: %s", self._path, _advised(str(error.orig)))
            raise StoreUnavailable(_ASK_AGAIN) from error
        except PoolTimeout as error:  # those before this one wait for the file
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


def _advised(fault: str) -> str:
    """Return an error of SQLite, and what to do about it where that is known."""
    advice = next((advice for word, advice in _ADVICE.items() if word in fault), None)
    return fault if advice is None else f"{fault}: {advice}"
