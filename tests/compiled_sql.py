"""Compiled SQL that all databases of a process share.

Each test opens its own, for which SQLAlchemy would compile every statement anew.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

_COMPILED: Any = {}


def share_compiled_sql() -> None:
    """Have the engines of a kind take their statements from one cache."""
    for kind in (PGDialect_asyncpg, SQLiteDialect_aiosqlite):
        # SQLAlchemy looks a statement up by its dialect, too.
        for name, method in (("__eq__", _is_alike), ("__hash__", _hash)):
            setattr(kind, name, method)
    event.listen(Engine, "engine_connect", _share)


def _is_alike(dialect: object, other: object) -> bool:
    return type(dialect) is type(other)


def _hash(dialect: object) -> int:
    return hash(type(dialect))


def _share(connection: Connection) -> None:
    connection.execution_options(compiled_cache=_COMPILED)
