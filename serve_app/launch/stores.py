"""The stores of a configuration before Ray starts: this version can use each, and SQLite's are no other's."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from serve_app.config.preflight import IMPORT_PATH
from serve_app.config.settings import parse_settings
from serve_app.errors import StoreUnavailable
from serve_app.launch.hold import held
from serve_app.launch.launch_config import LaunchError, address
from serve_app.store.database import Database, SchemaTooNew


@contextmanager
def held_stores(document: Mapping[str, Any]) -> Iterator[None]:
    """Hold the data of a Ray Serve configuration: its SQLite databases, so that no other service starts on
    them; where the database is a server, the data folder at this port.

    Raises ``LaunchError`` where another one has, or where a later version has changed a database.
    """
    port = address(document)[1]
    with ExitStack() as holds:
        for application in document["applications"]:
            if application["import_path"] != IMPORT_PATH:
                continue
            settings = parse_settings(application.get("args") or {}, Path.cwd())
            parsed = make_url(settings.store_url)
            if parsed.get_backend_name() == "sqlite" and parsed.database is not None:
                file = Path(parsed.database)
                holds.enter_context(held(Path(f"{file}.service"), partial(_sqlite_taken, file.parent)))
                is_new = not file.exists()
            else:
                folder, is_new = settings.data_dir, False
                lock = folder / f"port-{port}.service"
                holds.enter_context(held(lock, partial(_port_taken, folder, port)))
            if not is_new:
                asyncio.run(_require_usable(settings.store_url))
        yield


def _sqlite_taken(folder: Path, process: str) -> str:
    return (
        f"Another service{process} runs on {folder}, and SQLite is for one: stop that one, give this one "
        "a data_dir of its own, or set database_url to PostgreSQL, on which one can follow the other."
    )


def _port_taken(folder: Path, port: int, process: str) -> str:
    return (
        f"Another service{process} runs on {folder} at port {port}: stop that one, or choose another --port."
    )


async def _require_usable(url: str) -> None:
    database = Database(url)
    try:
        # A database that is away may come back; whether it does, the service says itself.
        with suppress(StoreUnavailable, OSError, SQLAlchemyError):
            await database.require_usable()
    except SchemaTooNew as error:
        raise LaunchError(str(error)) from None
    finally:
        await database.close()
