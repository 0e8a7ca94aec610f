"""A receiver of webhooks that tells the checker of each message."""

import asyncio
import json
from contextlib import suppress

from testbed.drill.checker import Checker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""The secret of a drilled service; its signatures are checked by the tests of webhooks."""


class Receiver:
    """A server on 127.0.0.1 that takes every message."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Begin to listen; return the URL."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What the service's own end breaks off is no message: it is sent again.
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
            headers = {name.lower(): value for name, _, value in lines}
            message = json.loads(await reader.readexactly(int(headers["content-length"])))
            self._checker.told(message["data"]["task_id"], message["type"], headers["webhook-id"])
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
