"""PgBouncer in transaction mode before a PostgreSQL server: few server connections for many clients."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from serve_app.config.free_ports import free_ports
from testbed.listening import is_listening


def program() -> Path | None:
    """Return PgBouncer, as Debian's package installs it."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    return None if found is None else Path(found)


class PgBouncer:
    """A context manager around a pooler with two connections to the server of the socket's folder."""

    def __init__(self, program: Path, server_folder: Path, user: str) -> None:
        self._program = program
        self._server_folder = server_folder
        self._user = user

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="pgb"))
        (self.port,) = free_ports(1)
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={self._server_folder} user={self._user}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        )
        command = [str(self._program), str(settings)]
        if os.geteuid() == 0:  # which it refuses to run as; the server's user may open its folder
            user = pwd.getpwuid(self._server_folder.stat().st_uid)
            for path in (self._folder, settings):
                os.chown(path, user.pw_uid, user.pw_gid)
            command += ["--user", user.pw_name]
        self._log = (self._folder / "log").open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        if not is_listening(self._process, self.port):
            said = (self._folder / "log").read_text()
            self._end()
            raise AssertionError(f"PgBouncer did not start:\n{said}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder)
