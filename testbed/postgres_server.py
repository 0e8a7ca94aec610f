"""A PostgreSQL server for one test run, on a socket in a folder of its own: nothing else reaches it."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

STOP_S = 60


def programs() -> Path | None:
    """Return the folder of the newest server programs of Debian's packages."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((path.parent for path in found), key=lambda path: int(path.parts[-2]), default=None)


class PostgresServer:
    """A context manager around a PostgreSQL server. Each of its databases begins empty."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # A socket's path may have 107 characters, which pytest's own folders can exceed.
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        self._numbers = count()
        # The server refuses to run as root.
        self._user = "postgres" if _exists("postgres") else "nobody"

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            shutil.chown(self._folder, self._user)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "tests", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses= -c fsync=off -k {self._folder}"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "-t", str(STOP_S), "start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        # Nobody waits for it: of a session's databases that is a hundred thousand files, and 10 s.
        os.posix_spawnp("rm", ["rm", "-rf", str(self._folder)], os.environ)

    @property
    def socket(self) -> Path:
        """The socket that the server listens on."""
        return self._folder / ".s.PGSQL.5432"

    def new_database(self, template: str = "template1") -> str:
        """Copy the database with the name ``template``, by default an empty one, and return its address."""
        name = f"tests{next(self._numbers)}"
        asyncio.run(self._create(name, template))
        return f"postgresql+asyncpg://tests@/{name}?host={self._folder}"

    async def _create(self, name: str, template: str) -> None:
        connection = await asyncpg.connect(host=str(self._folder), user="tests", database="postgres")
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        finally:
            await connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(self._user)
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        output = self._folder / "output"
        # The server keeps its output open, so the end of a pipe would never come.
        with output.open("a") as file:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                **as_user,
            )
        assert done.returncode == 0, f"{program} failed:\n{output.read_text()}"


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
