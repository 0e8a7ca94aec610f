"""A migrated database to start from, and the service on it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from serve_app.store.database import Database
from tests.http.http_service import HttpService, running, settings


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the newest schema and no tasks, made once and copied for each test."""
    path = tmp_path_factory.mktemp("database") / "tasks.db"

    async def migrate() -> None:
        database = Database(f"sqlite+aiosqlite:///{path}")
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
    return path


@pytest.fixture
def folder(tmp_path: Path, migrated: Path) -> Path:
    """A service's folder, its database already made."""
    (tmp_path / "data").mkdir()
    shutil.copy(migrated, tmp_path / "data" / "tasks.db")
    return tmp_path


@pytest_asyncio.fixture
async def service(folder: Path) -> AsyncIterator[HttpService]:
    """The service with the demo model and short limits."""
    async with running(settings(folder, limits={"max_queued": 5})) as service:
        yield service
