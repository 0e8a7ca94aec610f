"""The coordinator's end of the report line, beside Ray Serve: it costs a tenth of a call through that.

Nor can a replica that is frozen hold it up, since nobody waits until an answer has been read.
"""

import asyncio
import hmac
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable

from serve_app.tasks.replica import Replica
from serve_app.tasks.report_line import LONGEST_LINE, UNANSWERED, Address, told_by
from serve_app.tasks.run_report import RunReport

_TOKEN_WITHIN_S = 5.0
_logger = logging.getLogger("ray.serve")


class ReportServer:
    """Answers each line with the number of a ``Command``, of a heartbeat with 1.

    ``report``: takes the report of an attempt and returns the command; ``saw``: takes a heartbeat.
    """

    def __init__(
        self,
        report: Callable[[str, int, RunReport], Awaitable[int]],
        saw: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self._report = report
        self._saw = saw
        self._token = secrets.token_hex(32)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, host: str) -> None:
        """Listen on any free port of ``host``."""
        self._server = await asyncio.start_server(self._serve, host, 0, limit=LONGEST_LINE)

    @property
    def address(self) -> Address | None:
        """Where it listens; None before the start and after the end."""
        if self._server is None:
            return None
        host, port, *_ = self._server.sockets[0].getsockname()
        return Address(host, port, self._token)

    def close(self) -> None:
        """Listen no more, and hang up: another coordinator is to be told from now on. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._connections:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A node that is gone without a word would leave its connections here for good.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connections.add(writer)
        try:
            token = await asyncio.wait_for(reader.readline(), _TOKEN_WITHIN_S)
            if hmac.compare_digest(token.strip(), self._token.encode()):
                while line := await reader.readline():
                    writer.write(await self._answer(line))
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: too long a line
            _logger.debug("a report line ended: %r", error)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        try:
            told = told_by(line)
            if isinstance(told, Replica):
                await self._saw(told)
                return b"1\n"
            return b"%d\n" % await self._report(told.uid, told.attempt, told.report)
        except Exception as error:  # as a call through Serve, it goes unanswered
            _logger.debug("a line was not taken: %r", error)
            return UNANSWERED
