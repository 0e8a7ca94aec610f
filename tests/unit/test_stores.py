"""The stores of a configuration before Ray starts: SQLite's are held, and all are usable by this version."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from serve_app.launch.launch_config import LaunchError
from serve_app.launch.stores import held_stores
from serve_app.store.database import Database

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, json
from serve_app.launch.stores import held_stores
with held_stores(json.loads(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def configuration(*folders: Path) -> dict[str, Any]:
    """Return a configuration of an application for each folder."""
    model = {"name": "demo", "variant": "demo", "weights": str(ROOT / "models/demo/weights")}
    return {
        "applications": [
            {"import_path": "serve_app.app:build", "args": {"data_dir": str(folder), "models": [model]}}
            for folder in folders
        ]
    }


def test_a_second_service_on_a_data_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:

    shared, other = configuration(tmp_path / "shared"), configuration(tmp_path / "other")
    command = [sys.executable, "-c", HOLD, json.dumps(shared)]
    first = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdin is not None
    try:
        assert first.stdout.readline() == "held\n"
        with (
            held_stores(other),
            pytest.raises(LaunchError, match=f"Another service runs on {tmp_path}/shared"),
        ):
            held_stores(shared).__enter__()
    finally:
        first.kill()
        first.communicate()
    with held_stores(shared):
        pass


def test_a_database_that_a_later_version_has_changed_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("data").mkdir()

    async def change() -> None:
        database = Database(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'tasks.db'}")
        await database.migrate()
        async with database.write_alone() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            await connection.execute(text("UPDATE compatibility SET oldest_program = '9999'"))
        await database.close()

    asyncio.run(change())
    with pytest.raises(LaunchError, match="schema 9999 of a later version"):
        held_stores(configuration(tmp_path / "data")).__enter__()
