"""The fork server of a raylet: what its workers import is imported once, not by each of them.

Ray starts a Python for each worker, and most of what a worker costs a test is importing. With
``WAN_TESTBED_FORKS`` the first of a raylet imports for all, also the modules that are named there, and stays.
It forks itself for its own worker and for each that comes later, whose Python passes on its arguments,
environment and output, and ends: Ray knows a worker by the process that registers, not by the one that it has
started. With ``WAN_TESTBED_FORKS_OF`` the server itself is a fork of another raylet's.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE = "WAN_TESTBED_FORKS"
ORIGIN = "WAN_TESTBED_FORKS_OF"
"""The pid of a raylet whose server has imported what this one is to fork, too."""
MODULES = (
    "ray._private.workers.default_worker",
    "ray.serve._private.controller",
    "ray.serve._private.haproxy",
    "ray.serve._private.proxy",
    "ray.serve._private.replica",
    "serve_app.app",
    "serve_app.api.ingress",
    "serve_app.coordinator.coordinator",
    "serve_app.replica.model_replica",
    "serve_app.scaling_policy",
)
"""What the workers of a service import; none of it starts a thread."""
OF_A_WORKER = frozenset({"RAY_JOB_ID", "RAY_RAYLET_PID"})
"""Variables that differ from worker to worker, and are not read on import."""
FORKED, REFUSED = b"forked", b"refused"
BACKLOG = 64
MOST_BYTES = 1 << 18
OUTPUT = (0, 1, 2)
MOST_FILES = len(OUTPUT) + 2


class _DrawnBySystem:
    """In place of ``ray.ActorClassID`` while actor classes are imported.

    Ray's own generator would be seeded by it, and its state would be that of all forks.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def from_random(self) -> Any:
        return self._kind(os.urandom(self._kind.size()))


def server_name(raylet: int) -> str:
    """Return the name of a raylet's server that is a fork of another's, so not under the raylet."""
    return f"forks-{raylet}"


def become_worker() -> None:
    """Return in the process that goes on as the worker which this one was started for."""
    raylet = os.getppid()
    while os.getppid() == raylet != 1:  # else the raylet has ended, and so does the worker
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            try:
                listener.bind(_address(raylet))
            except OSError:  # there is one
                answer = _ask(_address(raylet), OUTPUT)
            else:
                listener.listen(BACKLOG)
                its_end = os.pidfd_open(raylet)
                origin = os.environ.get(ORIGIN)
                files = (*OUTPUT, listener.fileno(), its_end)
                if origin is None or _ask(_address(origin), files) != FORKED:
                    return _begin(listener, its_end)
                os._exit(0)
        if answer == FORKED:
            os._exit(0)
        if answer == REFUSED:
            return


def _address(raylet: int | str) -> str:
    return f"\0wan-testbed-forks-{raylet}"


def _ask(address: str, files: Sequence[int]) -> bytes:
    """Ask the server for the worker; return the answer, empty where there is no server any more.

    ``files``: the output, and the listener and the raylet of a server that is to fork the worker.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        try:
            server.connect(address)
            request = {"argv": sys.argv, "environment": dict(os.environ)}
            socket.send_fds(server, [json.dumps(request).encode()], files)
            return server.recv(MOST_BYTES)
        except OSError:
            return b""


def _begin(listener: socket.socket, raylet: int) -> None:
    """Import for all; fork a worker for this process and those that ask; return in the workers."""
    settings = _settings(dict(os.environ))  # which imports add to
    _import_modules()
    if _forked():
        os.close(raylet)
    else:
        _serve(listener, raylet, settings)


def _serve(listener: socket.socket, raylet: int, settings: dict[str, str]) -> None:
    """Fork a worker for each process that asks, until the raylet ends; return in the workers."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead workers leave nothing behind
    awaited: list[Any] = [listener, raylet]
    while True:
        ready, _, _ = select.select(awaited, [], [])
        if raylet in ready:
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            message, files, _, _ = socket.recv_fds(connection, MOST_BYTES, MOST_FILES)
            request = json.loads(message or "null")
            is_alike = request is not None and _settings(request["environment"]) == settings
            if is_alike and _forked():
                break
            with suppress(OSError):  # of one that has ended
                connection.send(FORKED if is_alike else REFUSED)
        for file in files:
            os.close(file)
    listener.close()
    os.close(raylet)
    _take_over(request, files[: len(OUTPUT)])
    if len(files) == MOST_FILES:
        *_, listening, its_end = files
        _serve_another(listening, its_end, settings)


def _serve_another(listener: int, raylet: int, settings: dict[str, str]) -> None:
    """Be the server of the raylet of whom this process has taken over; return in its workers."""
    with socket.socket(fileno=listener) as own:
        if _forked():
            os.close(raylet)
            return
        Path("/proc/self/comm").write_text(server_name(int(os.environ["RAY_RAYLET_PID"])))
        _serve(own, raylet, settings)


def _import_modules() -> None:
    """Import what the workers need, such that forks draw different ids."""
    actor: Any = importlib.import_module("ray.actor")
    own = actor.ActorClassID
    actor.ActorClassID = _DrawnBySystem(own)
    for module in (*MODULES, *os.environ[VARIABLE].split()):
        importlib.import_module(module)
    actor.ActorClassID = own
    gc.freeze()


def _settings(environment: dict[str, str]) -> dict[str, str]:
    """Return what Ray may have read of an environment on import."""
    names = {name for name in environment if name.startswith("RAY_")} - OF_A_WORKER
    return {name: environment[name] for name in names}


def _forked() -> bool:
    """Fork; return whether this is the new process, which leads a group, as each worker of Ray does."""
    if os.fork():
        return False
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return True


def _take_over(request: dict[str, Any], files: list[int]) -> None:
    """Become the process that sent the request."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["argv"]
