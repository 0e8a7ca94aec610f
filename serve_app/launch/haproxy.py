"""The program that Ray starts as HAProxy: HAProxy itself, by a configuration with the changes made here.

Ray writes the configuration and offers no settings for these. It runs as a script, ``haproxy.py HAPROXY …``,
once for each change of the replicas that HAProxy hands requests to: so it imports next to nothing.

A child that stays behind watches HAProxy. When that dies and nothing else listens in its place, a stand-in is
started at once, without the admin socket: so Serve, which asks there, sees that HAProxy has to be replaced.
That takes seconds, after which the stand-in hands the port over.
"""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_UNAVAILABLE = '{"detail":"The service is not available at the moment: try again.","code":"unavailable"}'
_STARTING = '{"detail":"The service is starting: try again.","code":"starting"}'
_SLOW = '{"detail":"The request takes too long to arrive; send it again, faster.","code":"too_slow"}'
_LONG = (
    '{"detail":"The path is longer than 8 kB, the headers longer than 16 kB, or there are more than 100 of '
    'them.","code":"headers_too_large"}'
)
_TOO_LONG = "{ url,length gt 8192 } || { req.hdrs,length gt 16384 } || { req.hdr_cnt gt 100 }"
_MOST_HEADERS, _BUFFER_BYTES = 1000, 32768
"""More than are taken: HAProxy's parser, which has one answer to all that it cannot read, is to read them."""
_ERROR_FILES = {
    "unavailable.http": ((500, 502, 503, 504), "503 Service Unavailable", "Retry-After: 1", _UNAVAILABLE),
    "slow.http": ((408,), "408 Request Timeout", "Connection: close", _SLOW),
}
"""By its file, which errors of HAProxy itself get an answer, and which. Where a replica is gone, is not there
or does not answer, or HAProxy itself fails, a client is told 503.
"""
_BEGINS_WITHIN_S = 30
"""Time for the headers of a request, and for its body or as much of that as a buffer holds."""
_ORPHAN_S = 30.0
"""How long a stand-in serves after the process of Ray that started HAProxy has ended."""
_LEAST_LIFE_S, _MOST_EARLY_ENDS, _PAUSE_S = 1.0, 5, 0.1


def rewrite(text: str, folder: Path) -> str:
    """Return HAProxy's configuration ``text``, changed.

    The admin socket is its user's alone. Statistics are for this machine, metrics too where the service is.
    Without an application a request is a 503 with ``Retry-After``, not a 404. So it is without a replica: it
    does not wait at Serve's own proxy. Errors of HAProxy, by files in ``folder``, are JSON, and no 500. A
    request that drips in takes no place at a replica, and is a 408. One with long headers is a 431, unless
    they are longer than a buffer.
    """
    text = text.replace("mode 666 level admin", "mode 600 level admin")
    host = listening(text)[0]
    if host.startswith("127.") or host in ("localhost", "::1"):
        text = re.sub(r"^(frontend prometheus\n\s*bind ):", rf"\g<1>{host}:", text, flags=re.M)
    text = re.sub(r"^(listen stats\n\s*bind )\*:", r"\g<1>127.0.0.1:", text, flags=re.M)
    text = re.sub(r"^\s*errorfile .*\n", "", text, flags=re.M)
    files = "".join(
        f"    errorfile {status} {folder / name}\n"
        for name, (statuses, *_) in _ERROR_FILES.items()
        for status in statuses
    )
    text = re.sub(r"^frontend prometheus$", f"{files}\\g<0>", text, count=1, flags=re.M)
    text = re.sub(r"^\s*server SERVE_PROXY_ACTOR-fallback-.* backup$", r"\g<0> disabled", text, flags=re.M)
    if "timeout http-request" not in text:
        text = text.replace("defaults\n", f"defaults\n    timeout http-request {_BEGINS_WITHIN_S}s\n", 1)
    text = text.replace("defaults\n", "defaults\n    option http-buffer-request\n", 1)
    text = text.replace("global\n", f"global\n    tune.http.maxhdr {_MOST_HEADERS}\n", 1)
    text = text.replace("tune.bufsize 16384", f"tune.bufsize {_BUFFER_BYTES}")
    refused = f"    http-request return {_answer(431, _LONG)} if {_TOO_LONG}\n"
    text = re.sub(
        r"^frontend http_frontend\n\s*bind .*\n", lambda found: found[0] + refused, text, flags=re.M
    )
    if not re.search(r"^\s*use_backend ", text, re.M):
        starting = _answer(503, _STARTING, "hdr Retry-After 1")
        text = re.sub(r"return status 404 .*", lambda _: f"return {starting}", text)
    return text


def _answer(status: int, body: str, header: str = "") -> str:
    """Return what has HAProxy answer by a rule."""
    quoted = body.replace('"', r"\"")
    return f'status {status} content-type application/json {header} string "{quoted}"'


def error_files() -> dict[str, str]:
    """Return the answers in place of HAProxy's own errors, by their files, as they go over the wire."""
    answers = {}
    for name, (_, status, header, body) in _ERROR_FILES.items():
        lines = [
            f"HTTP/1.1 {status}",
            "Content-Type: application/json",
            "Cache-Control: no-store",
            f"Content-Length: {len(body)}",
            header,
        ]
        answers[name] = "\r\n".join([*lines, "", body])
    return answers


def listening(text: str) -> tuple[str, int]:
    """Return the address that a configuration has HAProxy serve at."""
    found = re.search(r"^frontend http_frontend\n\s*bind (\S+):(\d+)", text, re.M)
    if found is None:
        raise ValueError("the configuration has no http_frontend")
    return found[1], int(found[2])


def main(program: str, arguments: Sequence[str]) -> None:
    """Become HAProxy, watched by a child."""
    config = Path(arguments[arguments.index("-f") + 1])
    text = rewrite(config.read_text(), config.parent)
    for name, answer in error_files().items():
        config.with_name(name).write_text(answer)
    written = config.with_suffix(".rewritten")
    written.write_text(text)
    written.replace(config)
    haproxy, manager = os.getpid(), os.getppid()
    older = [pid for pid in _serving(config) if str(pid) not in arguments and pid != haproxy]
    if os.fork() == 0:
        _watch(program, haproxy, manager, config, text)
        os._exit(0)
    more = [str(pid) for pid in older]
    if more and "-sf" not in arguments:
        more.insert(0, "-sf")
    at = arguments.index("-sf") + 1 if "-sf" in arguments else len(arguments)
    os.execv(program, [program, *arguments[:at], *more, *arguments[at:]])


def _serving(config: Path) -> Sequence[int]:
    """Return the HAProxies that serve in place of ``config``: a stand-in, or that of a manager that died."""
    names = {str(config).encode(), str(_stand_in(config)).encode()}
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not folder.name.isdigit() or (folder / "comm").read_text() != "haproxy\n":
                continue
            if names & set((folder / "cmdline").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found


def _stand_in(config: Path) -> Path:
    return config.with_name("stand-in.cfg")


def _watch(program: str, haproxy: int, manager: int, config: Path, text: str) -> None:
    """Replace HAProxy by a stand-in, and that by another, until one has a successor or Ray has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        ray = os.pidfd_open(_parent_of(manager))
        managing = os.pidfd_open(manager)
        watched = os.pidfd_open(haproxy)
    except OSError:  # one has ended already
        return
    stand_in: subprocess.Popen[bytes] | None = None
    began, early_ends = time.monotonic(), 0
    while _ends_first(watched, ray, managing) and not _is_served(*listening(text)):
        early_ends = early_ends + 1 if time.monotonic() - began < _LEAST_LIFE_S else 0
        if early_ends > _MOST_EARLY_ENDS:
            return  # it cannot serve
        time.sleep(early_ends * _PAUSE_S)
        _stand_in(config).write_text(
            re.sub(r"^\s*(stats socket|server-state|load-server-state).*\n", "", text, flags=re.M)
        )
        stand_in = subprocess.Popen([program, "-db", "-f", str(_stand_in(config)), "-dR"])
        watched, began = os.pidfd_open(stand_in.pid), time.monotonic()
    if stand_in is not None:
        stand_in.kill()


def _ends_first(process: int, ray: int, manager: int) -> bool:
    """Wait for the end of a process; return False if Ray's node ends first, or the manager long before."""
    poll = select.poll()
    for descriptor in (process, ray, manager):
        poll.register(descriptor, select.POLLIN)
    timeout_ms: float | None = None
    while ended := {descriptor for descriptor, _ in poll.poll(timeout_ms)}:
        if process in ended or ray in ended:
            return ray not in ended
        poll.unregister(manager)
        timeout_ms = _ORPHAN_S * 1000
    return False


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _is_served(host: str, port: int) -> bool:
    """Return whether anybody listens there, as the successor of a HAProxy that was told to end does."""
    try:
        socket.create_connection(("127.0.0.1" if host == "*" else host, port), timeout=1).close()
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
