"""A Redis server for one test run, on a port of this machine, which keeps nothing on disk."""

import shutil
import socket
import subprocess
import time
from types import TracebackType
from typing import Self

START_S = 20


def program() -> str | None:
    """Return Redis's server program, if it is installed."""
    return shutil.which("redis-server")


class RedisServer:
    """A context manager around a Redis server, which begins empty."""

    def __init__(self, program: str, port: int) -> None:
        self._program = program
        self.address = f"127.0.0.1:{port}"
        self._port = port

    def __enter__(self) -> Self:
        command = (self._program, "--bind", "127.0.0.1", "--port", str(self._port), "--save", "")
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        ends_at = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return self
            except OSError:
                if self._server.poll() is not None or time.monotonic() > ends_at:
                    self._end()
                    raise AssertionError("the Redis server did not start") from None
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._server.kill()
        self._server.wait()
