"""Connections to the database: SQLite for one node, PostgreSQL for several, with the same code."""

import asyncio
import fcntl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from serve_app.store.one_trip import OneTrip
from serve_app.store.postgres import PATIENCE_S, postgres_engine, reaching_server
from serve_app.store.sqlite_file import SqliteFile

Result = TypeVar("Result")
OnTransaction = Callable[[str, float], None]
"""Is told of each ``read`` or ``write`` that ended well, and its seconds; returns at once, never raises."""


def untimed(_kind: str, _seconds: float) -> None:
    """Tell nobody."""


_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"
_LOCK = 7_206_714_312  # key of the advisory lock; arbitrary, but used for nothing else
_READERS = 4


class Database:
    """Readers that see committed state, and a writer whose transactions never deadlock.

    SQLite runs in WAL mode with ``synchronous=FULL``: commits survive a power cut. A write transaction begins
    IMMEDIATE with its first modifying statement, so two processes queue for the lock instead of failing;
    within a process, writers take turns. A reader has no transaction: each query sees the state committed at
    that time. That saves the BEGIN and COMMIT, each of which would cost a round trip to a thread, the largest
    part of a query's time. What is asked most is one such trip as a whole, by ``read_once`` and
    ``write_once``.
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
        self._lock_patience_s = lock_patience_s
        self._writing = asyncio.Lock()
        self._reads: OneTrip | None = None
        self._writes: OneTrip | None = None
        parsed = make_url(url)
        self._file = parsed.database if parsed.get_backend_name() == "sqlite" else None
        if self._file is not None:
            file = SqliteFile(Path(self._file))
            self._reaching = file.reaching
            self._alone = text("BEGIN IMMEDIATE")
            readers = _options(begin=None, pool_size=_READERS, wait_s=PATIENCE_S)
            writers = _options(begin="IMMEDIATE", pool_size=1, wait_s=lock_patience_s)
            self._readers = create_async_engine(url, **readers)
            self._writers = create_async_engine(url, **writers)
            plain = parsed.set(drivername="sqlite")
            reads, writes = create_engine(plain, **readers), create_engine(plain, **writers)
            for engine in (self._readers.sync_engine, self._writers.sync_engine, reads, writes):
                _configure(engine, file.opened)
            self._reads, self._writes = OneTrip(reads, _READERS), OneTrip(writes, 1)
        else:
            self._reaching = reaching_server
            self._alone = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_LOCK)
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

    async def read_once(self, work: Callable[[Connection], Result]) -> Result:
        """Return what ``work`` reads by a connection, in any thread. Raises ``StoreUnavailable``."""
        if self._reads is None:
            async with self.read() as connection:
                return await connection.run_sync(work)
        began = time.perf_counter()
        async with self._reaching():
            result = await self._reads.run(work)
        self._on_transaction("read", time.perf_counter() - began)
        return result

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a transaction that is committed when the block ends and rolled back when the block raises.

        Raises ``StoreUnavailable``; then it is not known whether it was committed.
        """
        began = time.perf_counter()
        async with self._reaching(), self._turn(), self._writers.begin() as connection:
            yield connection
        self._on_transaction("write", time.perf_counter() - began)

    async def write_once(self, work: Callable[[Connection], Result]) -> Result:
        """Return what ``work`` makes of a transaction, in any thread. Raises as ``write`` does."""
        if self._writes is None:
            async with self.write() as connection:
                return await connection.run_sync(work)
        began = time.perf_counter()
        async with self._reaching(), self._turn():
            result = await self._writes.run(work)
        self._on_transaction("write", time.perf_counter() - began)
        return result

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Have a block that writes wait for those before it in this process. Raises ``PoolTimeout``."""
        if self._file is None:
            yield
            return
        try:
            async with asyncio.timeout(self._lock_patience_s):
                await self._writing.acquire()
        except TimeoutError:
            raise PoolTimeout("those before this write wait for the file") from None
        try:
            yield
        finally:
            self._writing.release()

    @asynccontextmanager
    async def write_alone(self) -> AsyncIterator[AsyncConnection]:
        """Yield a transaction for reading before writing; only one of these runs at a time.

        On SQLite the transaction excludes every other writer. On PostgreSQL a transaction of ``write`` may
        still change a row between the read and the write.
        """
        async with self.write() as connection:
            await connection.execute(self._alone)
            yield connection

    async def write_alone_once(self, work: Callable[[Connection], Result]) -> Result:
        """Return what ``work`` makes of a transaction of ``write_alone``, in any thread; raises alike."""

        def alone(connection: Connection) -> Result:
            connection.execute(self._alone)
            return work(connection)

        return await self.write_once(alone)

    async def close(self) -> None:
        """Close every connection."""
        for trips in (self._reads, self._writes):
            if trips is not None:
                await asyncio.to_thread(trips.close)
        await self._readers.dispose()
        await self._writers.dispose()


def _options(*, begin: str | None, pool_size: int, wait_s: float) -> dict[str, Any]:
    """Return the options of a SQLite engine.

    ``begin``: the kind of transaction for modifying statements, None for autocommit. ``wait_s``: seconds to
    wait for the file's lock, and for a connection.
    """
    return {
        "hide_parameters": True,  # or an error that is logged would hold prompts
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_reset_on_return": None,  # a read opens no transaction, a write commits or rolls back
        "connect_args": {"isolation_level": begin, "timeout": wait_s},
        "pool_timeout": wait_s,
        **({} if begin else {"isolation_level": "AUTOCOMMIT"}),
    }


def _configure(engine: Engine, opened: Callable[[], None]) -> None:
    """Have each new connection use the log in the safe way, and ``opened`` be called with it."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()
        opened()


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
