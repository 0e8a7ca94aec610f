"""The stores of a configuration before Ray starts: this version can use each, and SQLite's are no other's."""

import asyncio
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from serve_app.config.preflight import IMPORT_PATH
from serve_app.config.settings import parse_settings
from serve_app.errors import StoreUnavailable
from serve_app.launch.launch_config import LaunchError
from serve_app.store.database import Database, SchemaTooNew


@contextmanager
def held_stores(document: Mapping[str, Any]) -> Iterator[None]:
    """Hold the SQLite databases of a Ray Serve configuration, so that no other service starts on them.

    Raises ``LaunchError`` where another one has, or where a later version has changed a database.
    """
    with ExitStack() as held:
        for application in document["applications"]:
            if application["import_path"] != IMPORT_PATH:
                continue
            url = parse_settings(application.get("args") or {}, Path.cwd()).store_url
            parsed = make_url(url)
            file = parsed.database if parsed.get_backend_name() == "sqlite" else None
            if file is not None:
                held.enter_context(_held(Path(file)))
            if file is None or Path(file).exists():
                asyncio.run(_require_usable(url))
        yield


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, whatever ends that."""
    with open(f"{file}.service", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError(
                f"Another service runs on {file.parent}, and SQLite is for one: stop that one, give this one "
                "a data_dir of its own, or set database_url to PostgreSQL, on which one can follow the other."
            ) from None
        yield


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
