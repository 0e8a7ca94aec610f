"""The MCP server over stdio or streamable HTTP."""

import os
import sys
from collections.abc import Mapping

import anyio
import httpx
from mcp.server import MCPServer

from serve_app.mcp.running_service import TIMEOUT_S
from serve_app.mcp.tools import VideoTools
from serve_app.package_version import package_version

_HOST = "127.0.0.1"
_MAX_BODY_BYTES = 128 * 2**20
"""Of a call over HTTP, which may hold an image as base64; the service has a limit of its own."""


def run(url: str, port: int | None) -> int:
    """Serve the tools of the service at ``url`` over stdio, or on a port of 127.0.0.1."""
    try:
        anyio.run(_serve, url, port)
    except KeyboardInterrupt:
        return 130
    return 0


def build_server(client: httpx.AsyncClient, key: str) -> MCPServer:
    """Return the server; ``key`` is the API key of callers without headers, empty for none."""
    server = MCPServer(
        "wan-serve",
        instructions="Makes videos. A video takes minutes: submit it, then wait with video_status.",
        version=package_version(),
        log_level="WARNING",
        subscriptions=False,
    )
    for tool in VideoTools(client, _bearer(key)).all():
        server.add_tool(tool)
    return server


async def _serve(url: str, port: int | None) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        server = build_server(client, os.environ.get("WAN_SERVE_KEY", "").strip())
        if port is None:
            await server.run_stdio_async()
        else:
            print(f"MCP for {url} at http://{_HOST}:{port}/mcp", file=sys.stderr)
            await server.run_streamable_http_async(
                host=_HOST, port=port, stateless_http=True, max_request_body_size=_MAX_BODY_BYTES
            )


def _bearer(key: str) -> Mapping[bytes, bytes]:
    return {b"authorization": b"Bearer " + os.fsencode(key)} if key else {}
