"""The command ``wan-serve migrate`` on both databases."""

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy import make_url

from serve_app.cli.commands import main
from serve_app.store.database import Database, newest_version


def version_of(url: str) -> str | None:
    async def ask() -> str | None:
        database = Database(url)
        try:
            return await database.version()
        finally:
            await database.close()

    return asyncio.run(ask())


def test_a_database_is_checked_shown_and_migrated(
    database_url: str, kind: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["migrate", database_url, "--check"]) == 1
    if kind == "sqlite":
        assert not Path(make_url(database_url).database or "").exists()
    capsys.readouterr()
    assert main(["migrate", database_url, "--sql"]) == 0
    shown = capsys.readouterr().out
    assert "CREATE TABLE tasks" in shown and newest_version() in shown
    assert version_of(database_url) is None
    assert main(["migrate", database_url]) == 0
    assert newest_version() in capsys.readouterr().out
    assert version_of(database_url) == newest_version()
    assert main(["migrate", database_url, "--check"]) == 0
    capsys.readouterr()
    assert main(["migrate", database_url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["before"] == said["schema"] == said["needed"] == newest_version()
    assert main(["migrate", database_url, "--sql", "--json"]) == 2


def test_what_cannot_be_migrated_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["migrate", str(tmp_path / "none.yaml")]) == 2
    assert main(["migrate", "postgresql+asyncpg://127.0.0.1:1/none", "--check"]) == 2
    assert "does not answer" in capsys.readouterr().err
