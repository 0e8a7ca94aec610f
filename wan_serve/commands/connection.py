"""The options of every command that asks a service, and the client that they make."""

import os
from pathlib import Path
from typing import Annotated

import httpx
import typer

from wan_serve.async_client import AsyncClient
from wan_serve.call import of_task
from wan_serve.client import Client
from wan_serve.service import RETRIES

ONCE = 1
"""Further tries of a command that is over at once: who types it sees whether a service is there."""
PANEL = "The service"
"""Of the options that every such command has."""


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(f"{error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise typer.BadParameter("an address looks like http://127.0.0.1:8000")
    return url


def _checked_task_id(task_id: str) -> str:
    try:
        of_task(task_id)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return task_id


def _checked_task_ids(task_ids: list[str] | None) -> list[str]:
    return [_checked_task_id(task_id) for task_id in task_ids or []]


Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="WAN_SERVE_URL",
        callback=_checked_url,
        help="Its address.",
        rich_help_panel=PANEL,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="What holds the API key, in place of the variable WAN_SERVE_KEY.",
        rich_help_panel=PANEL,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Its id.", callback=_checked_task_id)]
TaskIds = Annotated[
    list[str] | None, typer.Argument(metavar="TASK...", help="Their ids.", callback=_checked_task_ids)
]


def connect(url: str, key_file: Path | None, *, retries: int = ONCE) -> Client:
    """Return a client. Raises ``OSError`` for a key file that cannot be read."""
    return Client(url, api_key=_key(key_file), retries=retries)


def connect_for_long(url: str, key_file: Path | None) -> Client:
    """Return a client that follows a task through a restart of the service."""
    return connect(url, key_file, retries=RETRIES)


def connect_async(url: str, key_file: Path | None) -> AsyncClient:
    """Return a client for asyncio, of the same patience."""
    return AsyncClient(url, api_key=_key(key_file), retries=RETRIES)


def _key(key_file: Path | None) -> str:
    text = os.environ.get("WAN_SERVE_KEY", "") if key_file is None else key_file.read_text("utf-8")
    return text.strip()
