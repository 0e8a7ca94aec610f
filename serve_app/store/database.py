"""Connections to the database: SQLite for one node, PostgreSQL for several, with the same code."""

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from serve_app.store.postgres import PATIENCE_S, postgres_engine, reaching_server
from serve_app.store.sqlite_file import SqliteFile

OnTransaction = Callable[[str, float], None]
"""Is told of each ``read`` or ``write`` that ended well, and its seconds; returns at once, never raises."""


def untimed(_kind: str, _seconds: float) -> None:
    """Tell nobody."""


_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"
_LOCK = 7_206_714_312  # key of the advisory lock; arbitrary, but used for nothing else


class Database:
    """Readers that see committed state, and a writer whose transactions never deadlock.

    SQLite runs in WAL mode with ``synchronous=FULL``: commits survive a power cut. A write transaction begins
    IMMEDIATE with its first modifying statement, so two processes queue for the lock instead of failing;
    within a process, writers queue on a pool of one connection. A reader has no transaction: each query sees
    the state committed at that time. That saves the BEGIN and COMMIT, each of which would cost a round trip
    to a thread, the largest part of a query's time.
    """

    def __init__(
        self,
        url: str,
        *,
        on_transaction: OnTransaction = untimed,
        patience_s: float = PATIENCE_S,
        lock_patience_s: float = PATIENCE_S,
    ) -> None:
        """``patience_s``: seconds after which a server that says nothing is taken for away;
        ``lock_patience_s``: after which a file that somebody else has locked is taken for unavailable, and as
        long a write waits for those before it in this process.
        """
        self._url = url
        self._on_transaction = on_transaction
        parsed = make_url(url)
        self._file = parsed.database if parsed.get_backend_name() == "sqlite" else None
        if self._file is not None:
            file = SqliteFile(Path(self._file))
            self._reaching = file.reaching
            self._readers = _sqlite_engine(
                url, begin=None, pool_size=4, wait_s=PATIENCE_S, opened=file.opened
            )
            self._writers = _sqlite_engine(
                url, begin="IMMEDIATE", pool_size=1, wait_s=lock_patience_s, opened=file.opened
            )
        else:
            self._reaching = reaching_server
            self._readers = self._writers = postgres_engine(url, patience_s)

    async def migrate(self) -> None:
        """Upgrade the schema to the latest version; safe when several processes start at the same time.

        The schema of a later version stays as it is where this program can use it. Raises ``SchemaTooNew``.
        """
        if self._file is None:
            await self._migrate_server()
            return
        # A lock inside the database is not enough: two processes must not switch a new file to WAL at once.
        with open(f"{self._file}.lock", "w") as lock:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            Path(self._file).touch(mode=0o600)  # a new one; its log takes over the mode
            async with self.write_alone() as connection:
                await connection.run_sync(_upgrade)

    async def require_usable(self) -> None:
        """Raise ``SchemaTooNew`` where a later version has changed the schema beyond this one's use."""
        await self.version()

    async def version(self) -> str | None:
        """Return the version of the schema that the database has; None without tables.

        Raises ``SchemaTooNew``.
        """
        async with self.read() as connection:
            return await connection.run_sync(_usable_version)

    async def _migrate_server(self) -> None:
        engine = postgres_engine(self._url, None)  # a large table may take its time
        try:
            async with reaching_server(), engine.begin() as connection:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                await connection.run_sync(_upgrade)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection for reading. Raises ``StoreUnavailable``."""
        began = time.perf_counter()
        async with self._reaching(), self._readers.connect() as connection:
            yield connection
        self._on_transaction("read", time.perf_counter() - began)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a transaction that is committed when the block ends and rolled back when the block raises.

        Raises ``StoreUnavailable``; then it is not known whether it was committed.
        """
        began = time.perf_counter()
        async with self._reaching(), self._writers.begin() as connection:
            yield connection
        self._on_transaction("write", time.perf_counter() - began)

    @asynccontextmanager
    async def write_alone(self) -> AsyncIterator[AsyncConnection]:
        """Yield a transaction for reading before writing; only one of these runs at a time.

        On SQLite the transaction excludes every other writer. On PostgreSQL a transaction of ``write`` may
        still change a row between the read and the write.
        """
        async with self.write() as connection:
            if self._file is None:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            else:
                await connection.execute(text("BEGIN IMMEDIATE"))
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        await self._readers.dispose()
        await self._writers.dispose()


def _sqlite_engine(
    url: str, *, begin: str | None, pool_size: int, wait_s: float, opened: Callable[[], None]
) -> AsyncEngine:
    """Create an engine; ``begin``: the kind of transaction for modifying statements, None for autocommit.

    ``wait_s``: seconds to wait for the file's lock, and for a connection. ``opened`` is called with each
    connection that is made.
    """
    engine = create_async_engine(
        url,
        hide_parameters=True,  # or an error that is logged would hold prompts
        pool_size=pool_size,
        max_overflow=0,
        pool_reset_on_return=None,  # ``read`` opens no transaction, ``write`` commits or rolls back
        connect_args={"isolation_level": begin, "timeout": wait_s},
        pool_timeout=wait_s,
        **({} if begin else {"isolation_level": "AUTOCOMMIT"}),
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()
        opened()

    return engine


def newest_version() -> str:
    """Return the version of the schema that this program needs: the number of the last migration."""
    return max(file.name.partition("_")[0] for file in _MIGRATIONS.glob("[0-9]*.py"))


class SchemaTooNew(Exception):
    """A later version of the program has changed the database so that this one cannot use it."""


def _upgrade(connection: Connection) -> None:
    if (_usable_version(connection) or "") < newest_version():
        # Alembic, which most starts have no need of: a process that restarts is up sooner without it.
        from serve_app.store.upgrade import upgrade

        upgrade(connection)


def _usable_version(connection: Connection) -> str | None:
    """Return the version of the schema that the database has. Raises ``SchemaTooNew``."""
    version, known = _version(connection), newest_version()
    if version is None or version <= known:
        return version
    oldest: str = connection.scalar(text("SELECT oldest_program FROM compatibility")) or version
    if oldest > known:
        raise SchemaTooNew(
            f"The database has the schema {version} of a later version of Wan Serve, which versions before "
            f"schema {oldest} cannot use, and this one knows {known}: start that later version."
        )
    return version


def _version(connection: Connection) -> str | None:
    """Return the version of the schema that the database has; None without tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version
