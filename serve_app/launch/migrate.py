"""The command ``wan-serve migrate``: a database's schema, brought to this version, checked, or as SQL."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, make_url

from serve_app.config.config_lint import load
from serve_app.config.section import SettingsError
from serve_app.config.settings import parse_settings
from serve_app.errors import StoreUnavailable
from serve_app.store.database import Database, SchemaTooNew, newest_version
from serve_app.store.upgrade import upgrade

_IMPORT_PATH = "serve_app.app:build"
_CHANGES = ("ALTER", "CREATE", "DELETE", "DROP", "INSERT", "UPDATE")


class _Undone(Exception):
    """Ends a transaction of which nothing is to stay."""


def migrate(target: str, *, is_check: bool, as_sql: bool, as_json: bool = False) -> int:
    """Migrate the databases of ``target``, a configuration file or an address; return the exit status.

    ``is_check``: changes nothing, and the status is 1 where a database is behind. ``as_sql``: prints the
    statements that a migration would execute, after executing them and taking them back. ``as_json``: prints
    an object a line, for each database, in place of a sentence.
    """
    try:
        urls = [target] if "://" in target else _urls_of(Path(target))
        status = 0
        for url in urls:
            status = max(
                status, asyncio.run(_migrate(url, is_check=is_check, as_sql=as_sql, as_json=as_json))
            )
        return status
    except (SettingsError, SchemaTooNew, StoreUnavailable) as error:
        print(error, file=sys.stderr)
        return 2


def _urls_of(path: Path) -> Sequence[str]:
    return [
        parse_settings(application.get("args") or {}, Path.cwd()).store_url
        for application in load(path)["applications"]
        if application["import_path"] == _IMPORT_PATH
    ]


async def _migrate(url: str, *, is_check: bool, as_sql: bool, as_json: bool) -> int:
    parsed, known = make_url(url), newest_version()
    name = f"{parsed.get_backend_name()} {parsed.database}"
    is_new = parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists()
    if is_new and is_check:  # a look would make the file
        _tell(name, None, None, known, as_json=as_json)
        return 1
    database = Database(url)
    try:
        before = await database.version()
        if as_sql:
            print(*await _statements(database), sep=";\n\n", end=";\n")
            return 0
        if not is_check:
            await database.migrate()
        now = await database.version()
    finally:
        await database.close()
    _tell(name, before, now, known, as_json=as_json)
    return int(now is None or now < known)


def _tell(name: str, before: str | None, now: str | None, known: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"database": name, "before": before, "schema": now, "needed": known}))
        return
    moved = "" if now == before else f", before {before or 'none'}"
    print(f"{name}: schema {now or 'none'}{moved}; this program needs {known}.")


async def _statements(database: Database) -> Sequence[str]:
    found: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.strip().upper().startswith(_CHANGES):
            found.append(statement.strip() + (f"  -- {values}" if values else ""))

    def run(connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", record)
        upgrade(connection)

    try:
        async with database.write_alone() as connection:
            await connection.run_sync(run)
            raise _Undone
    except _Undone:
        return found
