"""A proxy between a service and a server of its own: it cuts connections, holds them up, or slows them."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

Target: TypeAlias = tuple[str, int] | Path
"""Where a server listens: host and port, or a socket of the file system."""

_CHUNK_BYTES = 65536


class TcpProxy:
    """A context manager around a port of this machine whose connections lead to ``target``.

    It works in a thread of its own, so any thread, and no event loop, may be held up by it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._links: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._pause_s = 0.0
        self.refused = 0
        """Connections that were not let through."""
        self.held = 0
        """Parts of what was said that were held up."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break all connections, and take no other."""
        self._do(self._cut())

    def stall(self) -> None:
        """Take connections, and let nothing through."""
        self._loop.call_soon_threadsafe(self._gate.clear)

    def slow(self, pause_s: float) -> None:
        """Have each part of what is said wait for so many seconds."""
        self._pause_s = pause_s

    def mend(self) -> None:
        """Let everything through at once."""
        self._is_cut, self._pause_s = False, 0.0
        self._loop.call_soon_threadsafe(self._gate.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._gate = asyncio.Event()
        self._gate.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        self._is_cut = True
        await self._break_links()

    async def _break_links(self) -> None:
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.refused += 1
            writer.transport.abort()
            return
        link = asyncio.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._target, Path):
                there, onward = await asyncio.open_unix_connection(self._target)
            else:
                there, onward = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        ways = [asyncio.create_task(self._carry(*way)) for way in ((reader, onward), (there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (writer, onward):
                each.transport.abort() if self._is_cut else each.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if not self._gate.is_set():
                self.held += 1
            await self._gate.wait()
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
            writer.write(data)
            await writer.drain()
