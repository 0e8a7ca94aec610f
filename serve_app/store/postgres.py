"""Connections to a PostgreSQL server, which may be away, slow, or behind a pooler."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from serve_app.errors import ServiceError, StoreUnavailable

PATIENCE_S = 10.0
"""Seconds after which a server that says nothing is taken for away."""

_AWAY = frozenset({"08", "40", "53", "57"})
"""PostgreSQL's classes of errors: connections, a transaction rolled back for another's sake (a deadlock, as
with what a broken connection has left there), a server without room for one, one that begins or ends.
"""

_logger = logging.getLogger("ray.serve")


def postgres_engine(url: str, patience_s: float | None) -> AsyncEngine:
    """Create an engine; no statement waits longer than ``patience_s`` seconds, None: for ever.

    With ``prepared_statement_cache_size=0`` in ``url``, as SQLAlchemy wants it for PgBouncer, no prepared
    statement is expected to be there for the next transaction, nor a name of one to be free.
    """
    arguments: dict[str, Any] = {"timeout": patience_s or PATIENCE_S, "command_timeout": patience_s}
    if make_url(url).query.get("prepared_statement_cache_size") == "0":
        arguments |= {"statement_cache_size": 0, "prepared_statement_name_func": lambda: f"s{uuid4().hex}"}
    return create_async_engine(
        url,
        hide_parameters=True,  # or an error that is logged would hold prompts
        pool_size=8,
        pool_pre_ping=True,
        pool_timeout=patience_s or PATIENCE_S,
        connect_args=arguments,
    )


@asynccontextmanager
async def reaching_server() -> AsyncIterator[None]:
    """Raise ``StoreUnavailable`` where the block cannot reach the server; its other errors stay."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        if not _is_away(error):
            raise
        _logger.warning("the database does not answer: %s", type(error).__name__)
        raise StoreUnavailable("The database does not answer; try again later.") from error


def _is_away(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, InterfaceError) or _is_away_code(error.orig)
    # What is raised while a connection is made comes as asyncpg and the system raise it.
    return isinstance(error, OSError | TimeoutError | PoolTimeout) or _is_away_code(error)


def _is_away_code(error: object) -> bool:
    code = getattr(error, "sqlstate", None)
    return isinstance(code, str) and code[:2] in _AWAY
