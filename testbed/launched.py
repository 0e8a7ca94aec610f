"""The service as a user starts it: a process of its own, with a Ray cluster of its own under it."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import yaml

from serve_app.launch.session import members
from testbed.fork_server import VARIABLE
from testbed.service import HTTP, Service, wait_for

ROOT = Path(__file__).parents[1]
STARTUP = Path(__file__).with_name("startup")  # as in testbed.cluster, which imports Ray
START_S = 240
"""A bound for what hangs, not for what is slow, as in testbed.cluster."""
END_S = 240


class Launched:
    """A context manager around what ``scripts/serve`` becomes. It can be killed and started again."""

    def __init__(self, folder: Path, port: int, import_path: str = "", **args: Any) -> None:
        self._folder = folder
        self._port = port
        self._config = folder / "serve_config.yaml"
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config["http_options"] = {"host": "127.0.0.1", "port": port}
        application = config["applications"][0]
        application["args"] = {"data_dir": str(folder / "data"), **args}
        application["import_path"] = import_path or application["import_path"]
        self._config.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None
        self.service = Service(f"http://127.0.0.1:{port}", folder / "data", _no_pids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def output(self) -> str:
        """The whole output of the service so far."""
        return (self._folder / "output.log").read_text(errors="replace")

    def start(self, *options: str, whole: bool = False) -> None:
        """Start the service and wait until it is ready; unless ``whole``, as in ``testbed.lean_node`` and
        ``testbed.fork_server``.
        """
        self.begin(*options, whole=whole)
        wait_for(self._is_ready, START_S, lambda: f"not ready; it printed:\n{self.output}")

    def begin(self, *options: str, until: str = "", whole: bool = False) -> None:
        """Begin to start the service, and wait until a process under it has ``until`` in its title."""
        environment = _environment_without_ray()
        if whole:
            environment.pop(VARIABLE, None)
        with (self._folder / "output.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve_app.cli", "serve", str(self._config), *options],
                cwd=ROOT,
                env={
                    **environment,
                    "RAY_AUTH_MODE": "disabled",
                    # as in testbed.cluster
                    "RAY_worker_niceness": "0",
                    "RAY_worker_register_timeout_seconds": "240",
                    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "120",
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(STARTUP)]),
                    **({} if whole else {"WAN_TESTBED_LEAN": "1"}),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if until:
            wait_for(lambda: self._runs(until), START_S, lambda: f"no {until}; it printed:\n{self.output}")

    def kill(self, *, but: str = "") -> None:
        """Kill the process and everything of its session (SIGKILL), ``but`` for programs of that name."""
        assert self._process is not None
        session = self._session()
        self._process.kill()
        self._process.wait(END_S)
        self._process = None
        wait_for(partial(_is_killed, session, but), END_S, lambda: f"they live on: {members(session)}")
        if not but:
            wait_for(self._is_gone, END_S, lambda: "the port is still answered")

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.signal()
        return self.ended()

    def signal(self, *, group: bool = False) -> None:
        """Send SIGTERM without waiting for the end; to the process group, as many supervisors do."""
        assert self._process is not None
        (os.killpg if group else os.kill)(self._process.pid, signal.SIGTERM)

    def ended(self) -> int:
        """Wait until the service has ended by itself with everything under it; return the exit status."""
        assert self._process is not None
        tree = self.tree()[1:]
        status = self._process.wait(END_S)
        _, alive = psutil.wait_procs(tree, END_S)
        assert not alive, f"left behind: {alive}"
        self._process = None
        with socket.socket() as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("127.0.0.1", self._port))
        return status

    def tree(self) -> list[psutil.Process]:
        """Return the process and everything of its session."""
        assert self._process is not None
        return [psutil.Process(self._process.pid), *members(self._session())]

    def _session(self) -> int:
        """Return the number of the session that the launcher leads, below its supervisor."""
        assert self._process is not None
        (launcher,) = psutil.Process(self._process.pid).children()
        return launcher.pid

    def _runs(self, title: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended; it printed:\n{self.output}"
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):  # one that ends meanwhile
                found.append(" ".join(process.cmdline()))
        return any(title in line for line in found)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended; it printed:\n{self.output}"
        try:
            return HTTP.get(f"{self.service.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _is_gone(self) -> bool:
        try:
            HTTP.get(f"{self.service.url}/health", timeout=5)
        except httpx.TransportError:
            return True
        return False


def _is_killed(session: int, but: str) -> bool:
    """Kill everything of a session ``but`` for programs of that name; return whether nothing was left.

    Not by waiting for each: a dead child of HAProxy is there as long as HAProxy, which asks for none.
    """
    killed = 0
    for process in members(session):
        with suppress(psutil.NoSuchProcess):
            if process.name() != but:
                process.kill()
                killed += 1
    return not killed


def _environment_without_ray() -> dict[str, str]:
    """Return the environment without the variables of another Ray cluster, such as its ports.

    Where Ray keeps its files is the caller's: a cluster of ``ray start`` is found there, and joined.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") or name == "RAY_TMPDIR"
    }


def _no_pids(deployment: str) -> dict[str, int]:
    raise LookupError(f"the processes of {deployment} are not known from outside")
