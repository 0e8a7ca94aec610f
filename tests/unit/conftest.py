"""An empty database for each test."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from serve_app.store.database import Database


@pytest_asyncio.fixture
async def database(tmp_path: Path, migrated: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{shutil.copy(migrated, tmp_path / 'tasks.db')}")
    yield database
    await database.close()
