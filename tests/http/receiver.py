"""A receiver of webhooks: a real HTTP server on loopback that keeps what it gets and answers as told."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request: its path, its headers, by lower-case name, and its body."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message


@dataclass
class Receiver:
    """Answers each request with the next of ``answers``, such as ``503 Busy``, and with 204 after those."""

    port: int = 0
    answers: list[str] = field(default_factory=list)
    body: bytes = b""
    """Of every answer."""
    received: list[Received] = field(default_factory=list)
    before_answer: Callable[[], Awaitable[object]] | None = None
    """Awaited between a request and its answer."""

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.received]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
            headers = {name.lower(): value for name, _, value in lines}
            target = head.split(" ", 2)[1]
            body = await reader.readexactly(int(headers["content-length"]))
            self.received.append(Received(target, headers, body))
            if self.before_answer is not None:
                await self.before_answer()
            answer = self.answers.pop(0) if self.answers else "204 No Content"
            length = f"content-length: {len(self.body)}"
            writer.write(f"HTTP/1.1 {answer}\r\n{length}\r\nconnection: close\r\n\r\n".encode() + self.body)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """Start a receiver, on a free port unless one is given."""
    receiver = Receiver()
    listener = await asyncio.start_server(receiver.handle, "127.0.0.1", port)
    receiver.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield receiver
