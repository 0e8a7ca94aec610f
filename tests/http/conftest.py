"""The service on an empty database."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.http.http_service import HttpService, running, settings


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
