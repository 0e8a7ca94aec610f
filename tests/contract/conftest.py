"""An empty database of each kind that the service offers, the store and the ledger on it, and two ranks."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from sqlalchemy import make_url

from serve_app.config.tracing_settings import TracingSettings
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from testbed.postgres_server import PostgresServer
from tests.collector import Collector

if TYPE_CHECKING:
    from serve_app.replica.rank_group import RankGroup
    from testbed.cluster import Cluster

RANK_PATIENCE_S = 120


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """The name of a PostgreSQL database with the newest schema and no tasks, of which others are copies."""

    async def migrate(url: str) -> None:
        database = Database(url)
        await database.migrate()
        await database.close()

    url = postgres.new_database()
    asyncio.run(migrate(url))
    return str(make_url(url).database)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of a database, in the words of its address."""
    return str(request.param)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    """The address of a database without tables."""
    if kind == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'tasks.db'}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.new_database()


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, kind: str, tmp_path: Path, migrated: Path) -> str:
    """The address of a database with the newest schema and no tasks."""
    if kind == "sqlite":
        return f"sqlite+aiosqlite:///{shutil.copy(migrated, tmp_path / 'tasks.db')}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.new_database(request.getfixturevalue("migrated_postgres"))


@pytest_asyncio.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    database = Database(migrated_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> TaskStore:
    return TaskStore(database)


@pytest_asyncio.fixture
async def ledger(database: Database) -> RunLedger:
    return await RunLedger.take_lead(database, lease_s=30, grace_s=10)


@pytest.fixture(scope="module")
def rank_collector() -> Iterator[Collector]:
    """The collector that the ranks tell of runs with a traceparent."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def demo_pair(cluster: "Cluster", rank_collector: Collector) -> "Iterator[RankGroup]":
    """Two ranks of the demo model, for the tests that leave them as they were."""
    from testbed.cluster import demo  # these set Ray's environment, which other tests need not have
    from testbed.ranks import group_of

    tracing = TracingSettings(endpoint=rank_collector.endpoint, period_s=0.1)
    with group_of(demo(), timeout_s=RANK_PATIENCE_S, tracing=tracing) as group:
        yield group
