"""``wan-serve mcp``: a running service offered to language models."""

from typing import Annotated

import typer

from wan_serve.commands.connection import Url
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.terminal import complain
from wan_serve.service import DEFAULT_URL

Http = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="A port of 127.0.0.1 for streamable HTTP, where callers send their own API keys; "
        "else stdio, with the key in WAN_SERVE_KEY.",
    ),
]


def mcp(url: Url = DEFAULT_URL, http: Http = None) -> int:
    """Offer a running service to language models, as tools (MCP)."""
    try:
        from serve_app.mcp.server import run
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        complain('wan-serve mcp needs the extra mcp: pip install "wan-serve[mcp]".')
        return ExitStatus.USAGE
    return run(url, http)
