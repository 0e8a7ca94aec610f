"""HAProxy as the launcher has Ray start it, by the configuration that Ray writes."""

import json
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from ray.serve._private import haproxy as rays
from ray.serve._private.common import RequestProtocol
from ray.serve.config import HTTPOptions

from serve_app.config.free_ports import free_ports
from serve_app.launch import haproxy
from serve_app.launch.proxy_folder import proxy_folder
from testbed.service import wait_for


def written_by_ray(folder: Path, host: str = "127.0.0.1", *, application: bool = True) -> Path:
    """Have Ray write a configuration, of an application with one replica, which is not there, or of none."""
    folder.mkdir(exist_ok=True)
    port, metrics, statistics, gone = free_ports(4)
    server = rays.ServerConfig(name="api", host="127.0.0.1", port=gone)
    fallback = rays.ServerConfig(name="SERVE_PROXY_ACTOR-fallback-1", host="127.0.0.1", port=gone)
    backend = rays.BackendConfig(
        name="http-wan",
        path_prefix="/",
        app_name="wan",
        servers=[server],
        fallback_server=fallback,
        protocol=RequestProtocol.HTTP,
    )
    config = rays.HAProxyConfig(
        http_options=HTTPOptions(host=host, port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        metrics_port=metrics,
        stats_port=statistics,
        is_head=True,
    )
    file = folder / "haproxy.cfg"
    api = rays.HAProxyApi(config, {"http-wan": backend} if application else {}, str(file))
    api._generate_config_file_internal()  # noqa: SLF001 (what Ray writes is what is tried)
    return file


class Proxy:
    """HAProxy as Ray's manager starts it: this process is that manager, and its parent Ray's node."""

    def __init__(self, program: Path, config: Path) -> None:
        self.process = subprocess.Popen([str(program), "-db", "-f", str(config), "-dR"])
        self.host, self.port = haproxy.listening(config.read_text())
        wait_for(lambda: self.get() is not None, 20, lambda: "HAProxy does not answer")

    def get(self) -> httpx.Response | None:
        """Return the answer to a request, None where nobody listens."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v1/tasks/a/status", timeout=5)
        except httpx.ConnectError:
            return None


Start = Callable[[Path], Proxy]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Yield what starts HAProxy; in the end kill all that serves in the folder, what watches it first."""
    started: list[Proxy] = []
    with proxy_folder() as variables:
        program = Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"])
        assert stat.S_IMODE(program.parent.stat().st_mode) == 0o700

        def start(config: Path) -> Proxy:
            started.append(Proxy(program, config))
            return started[-1]

        yield start
    assert not program.exists()
    for name in ("python", "haproxy"):
        for process in running(folder, name):
            process.kill()
    for proxy in started:
        proxy.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "node"


def running(folder: Path, name: str) -> list[psutil.Process]:
    """Return the processes of a program by the configurations in ``folder``."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"].startswith(name) and str(folder) in " ".join(process.info["cmdline"] or ())
    ]


@pytest.mark.parametrize("application", [False, True])
def test_while_nobody_is_there_to_answer_a_client_is_told_503_and_when_to_come_back(
    folder: Path, start: Start, application: bool
) -> None:
    proxy = start(written_by_ray(folder, application=application))
    answer = proxy.get()
    assert answer is not None and answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["code"] == ("unavailable" if application else "starting")


@pytest.mark.parametrize(
    ("sent", "is_too_large"),
    [
        ("/ HTTP/1.1\r\nCookie: " + "a" * 16_000, False),
        ("/ HTTP/1.1\r\nCookie: " + "a" * 30_000, True),
        ("/" + "a" * 9000 + " HTTP/1.1", True),
        ("/ HTTP/1.1" + "\r\nA: b" * 500, True),
    ],
    ids=["a long header", "a longer header", "a long path", "many headers"],
)
def test_long_headers_are_refused_in_json(folder: Path, start: Start, sent: str, is_too_large: bool) -> None:
    proxy = start(written_by_ray(folder))
    with socket.create_connection((proxy.host, proxy.port), timeout=20) as client:
        client.sendall(f"GET {sent}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 " if is_too_large else b"HTTP/1.1 503 ")
    assert b"application/json" in head.lower()
    assert json.loads(body)["code"] == ("headers_too_large" if is_too_large else "unavailable")


def test_a_request_whose_body_does_not_come_takes_no_replica_and_is_told_so(
    folder: Path, start: Start
) -> None:
    config = written_by_ray(folder)
    config.write_text(
        config.read_text().replace("defaults\n", "defaults\n    timeout http-request 100ms\n", 1)
    )
    proxy = start(config)
    with socket.create_connection((proxy.host, proxy.port), timeout=20) as client:
        client.sendall(b"POST /v1/tasks/video HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        head, _, body = b"".join(iter(lambda: client.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ") and json.loads(body)["code"] == "too_slow"


def test_haproxy_listens_on_this_machine_alone_and_its_admin_socket_is_its_users(
    folder: Path, start: Start
) -> None:
    proxy = start(written_by_ray(folder))
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600
    assert {each.laddr.ip for each in psutil.Process(proxy.process.pid).net_connections("tcp")} == {
        "127.0.0.1"
    }


def test_a_service_for_others_has_its_metrics_for_them_and_its_statistics_for_itself(folder: Path) -> None:
    text = haproxy.rewrite(written_by_ray(folder, "0.0.0.0").read_text(), folder)
    binds = [
        line.split()[1].rpartition(":")[0] for line in text.splitlines() if line.strip().startswith("bind ")
    ]
    assert binds == ["", "*", "127.0.0.1"]


def test_a_killed_haproxy_has_a_stand_in_until_ray_starts_another(folder: Path, start: Start) -> None:
    config = written_by_ray(folder)
    written = config.read_text()
    first = start(config)
    for killed in range(2):  # the stand-in has one as well
        (serves,) = running(folder, "haproxy")
        assert (serves.pid == first.process.pid) == (killed == 0)
        serves.kill()
        first.process.wait()
        wait_for(lambda: first.get() is not None, 3, lambda: "nobody answers")
    assert "admin.sock" not in (folder / "stand-in.cfg").read_text()

    config.write_text(written)
    second = start(config)
    wait_for(
        lambda: [process.pid for process in running(folder, "haproxy")] == [second.process.pid],
        20,
        lambda: f"{running(folder, 'haproxy')} serve",
    )
    assert second.get() is not None
