"""The connection to the database: SQLite for one node, PostgreSQL for several, one code for both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_BUSY_TIMEOUT_MS = 10_000
_MIGRATION_LOCK = 7_206_714_312  # any number that nothing else in the database locks


class Database:
    """Readers that see committed state, and a writer whose transactions never deadlock.

    SQLite runs in WAL mode with ``synchronous=FULL``: what is committed survives a power cut. Write
    transactions begin IMMEDIATE there, so two processes queue for the lock instead of failing when a
    reader turns writer; within a process they queue on a pool of one connection.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._readers = _sqlite_engine(url, begin="BEGIN", pool_size=4)
            self._writers = _sqlite_engine(url, begin="BEGIN IMMEDIATE", pool_size=1)
        else:
            self._readers = self._writers = create_async_engine(url, pool_size=8, pool_pre_ping=True)

    async def migrate(self) -> None:
        """Bring the schema to the newest version; safe when several processes start at once."""
        async with self.write() as connection:
            if not self.is_sqlite:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            await connection.run_sync(_upgrade)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with."""
        async with self._readers.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed when the block ends and rolled back when it raises."""
        async with self._writers.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        await self._readers.dispose()
        await self._writers.dispose()


def _sqlite_engine(url: str, *, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_MS / 1000},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
