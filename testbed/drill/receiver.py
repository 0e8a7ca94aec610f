"""A receiver of webhooks and uploads that tells the checker of each."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath

from testbed.drill.checker import Checker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""The secret of a drilled service; its signatures are checked by the tests of webhooks."""
_UPLOAD_S = 0.5
"""Seconds for which the storage keeps an upload waiting, so that faults strike in the middle of some."""


class Receiver:
    """A server on 127.0.0.1 that takes every message, and as a storage every video."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Begin to listen; return the URL, below which are ``hook_of`` and ``upload_of``."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What the service's own end breaks off is no message: it is sent again.
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.strip().split("\r\n")
            method, path, _ = request.split()
            fields = (line.partition(": ") for line in lines)
            headers = {name.lower(): value for name, _, value in fields}
            if method == "PUT":
                await asyncio.sleep(_UPLOAD_S)
            body = await reader.readexactly(int(headers["content-length"]))
            if method == "PUT":
                self._checker.uploaded(PurePosixPath(path).stem, body)
            else:
                self._note_message(body, headers)
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    def _note_message(self, body: bytes, headers: Mapping[str, str]) -> None:
        message = json.loads(body)
        self._checker.told(message["data"]["task_id"], message["type"], headers["webhook-id"])


def hook_of(receiver: str) -> str:
    """Return where the receiver at this URL takes messages."""
    return f"{receiver}/hook"


def upload_of(receiver: str, task_id: str) -> str:
    """Return where the receiver at this URL takes the video of a task."""
    return f"{receiver}/videos/{task_id}.mp4"
