"""The MCP server over stdio or streamable HTTP."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import anyio
import httpx
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent
from pydantic import ValidationError

from serve_app.findings import path, reason
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


class _Server(MCPServer):
    """The SDK's server, but that arguments of a wrong type are refused in one sentence."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> Any:
        """Call a tool. Raises ``ToolError``."""
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            return CallToolResult(
                content=[TextContent(type="text", text=_said(error.__cause__))], is_error=True
            )


def build_server(client: httpx.AsyncClient, key: str) -> MCPServer:
    """Return the server; ``key`` is the API key of callers without headers, empty for none."""
    server = _Server(
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


def _said(error: ValidationError) -> str:
    findings = error.errors(include_url=False, include_input=False)
    sentences = [f"{path(finding['loc'])}: {reason(finding)}" for finding in findings]
    return "; ".join(sentences).replace(": input should be", ": must be") + "."


def _bearer(key: str) -> Mapping[bytes, bytes]:
    return {b"authorization": b"Bearer " + os.fsencode(key)} if key else {}
