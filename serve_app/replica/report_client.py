"""The replica's end of the report line."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from serve_app.tasks.command import Command
from serve_app.tasks.replica import Replica
from serve_app.tasks.report_line import LONGEST_LINE, UNANSWERED, Address, Told, line_of

_AGAIN_AFTER_S = 5.0
"""Seconds after a connection that was not made until the next one is tried."""


class NoLine(Exception):
    """There is no line to the coordinator; it may be reached otherwise."""


class Unanswered(Exception):
    """The coordinator was reached, and could not take what it was told."""


class ReportClient:
    """A connection to the coordinator, made when it is first needed and anew after each loss.

    ``find``: asks where the coordinator listens; None, or an exception, where it does not.
    """

    def __init__(self, find: Callable[[], Awaitable[Address | None]]) -> None:
        self._find = find
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._again_at = 0.0

    async def tell(self, told: Told | Replica) -> Command:
        """Tell the coordinator, and return its answer. Raises ``NoLine`` or ``Unanswered``.

        Cancelled, it hangs up: the answer that is still to come would be taken for the next one's.
        """
        async with self._turn:
            reader, writer = await self._connected()
            try:
                writer.write(line_of(told))
                answer = await reader.readline()
            except OSError:
                answer = b""
            except BaseException:
                self.close()
                raise
        if not answer.endswith(b"\n"):
            self.close()
            raise NoLine
        if answer == UNANSWERED:
            raise Unanswered
        return Command(int(answer))

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            if time.monotonic() < self._again_at:
                raise NoLine
            self._again_at = time.monotonic() + _AGAIN_AFTER_S
            address = await self._find()
            if address is None:
                raise NoLine
            try:
                self._streams = await asyncio.open_connection(address.host, address.port, limit=LONGEST_LINE)
            except OSError as error:
                raise NoLine from error
            self._streams[1].write(f"{address.token}\n".encode())
            self._again_at = 0.0
        return self._streams
