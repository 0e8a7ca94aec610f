"""Work on a SQLite file in one trip to a thread: all statements of it, their rows, and the commit.

By itself a statement is four trips, to open a cursor, execute, fetch and close, and a commit another. A trip
wakes two threads, each of which waits for Python's lock: that costs more than most statements.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine

Result = TypeVar("Result")


class OneTrip:
    """The threads of an engine, one for each of its connections. Both begin when they are needed."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self._engine = engine
        self._most = threads
        self._threads = self._pool()

    async def run(self, work: Callable[[Connection], Result]) -> Result:
        """Return what ``work`` returns, in a transaction that is committed if it raises nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)

    def close(self) -> None:
        """Close the connections, once what is under way has ended; more work would open others."""
        self._threads.shutdown()
        self._engine.dispose()
        self._threads = self._pool()

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._most, thread_name_prefix="store")

    def _run(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.begin() as connection:
            return work(connection)
