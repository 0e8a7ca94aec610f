"""A Redis server for one test run, on a port of this machine, which keeps nothing on disk."""

import shutil
import subprocess
from types import TracebackType
from typing import Self

from testbed.listening import is_listening


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
        if not is_listening(self._server, self._port):
            self._end()
            raise AssertionError("the Redis server did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._server.kill()
        self._server.wait()
