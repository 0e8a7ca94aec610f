"""A real Ray cluster with Ray Serve on this machine; it deploys applications the way ``serve run`` does."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serve_app.config.free_ports import free_ports
from serve_app.config.ray_environment import ray_environment
from testbed.fork_server import ORIGIN, VARIABLE
from testbed.lean_node import stand_ins
from testbed.service import HTTP, Service, wait_for

ROOT = Path(__file__).parents[1]
STARTUP = Path(__file__).with_name("startup")
"""What every Python process under a cluster imports first."""
READY_S = 240
"""A bound for what hangs, not for what is slow: Serve's own 60 s are too short on a busy machine."""
AFTER_THE_END = "cannot schedule new futures after shutdown"
"""What a loop says that goes on in a replica whose threads Serve has stopped."""

# Ray reads these when it is imported, and its workers inherit them.
os.environ.update(
    ray_environment(),
    RAY_AUTH_MODE="disabled",
    # Ray's workers have a niceness of 15, so anything else that runs would come before every replica.
    RAY_worker_niceness="0",
    # On a busy machine HAProxy is not up within 30 seconds.
    RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S="120",
    # Nor is a worker within a minute, after which the raylet would want none of it.
    RAY_worker_register_timeout_seconds="240",
    # A node whose raylet is gone is given up after five looks; one that is late has ten seconds for each.
    RAY_health_check_period_ms="500",
    # Nobody looks at the figures that Ray's agent takes of each process.
    REPORTER_UPDATE_INTERVAL_MS="60000",
    # The workers import the testbed and the benchmarks' engines too.
    PYTHONPATH=os.pathsep.join([str(ROOT), str(STARTUP), os.environ.get("PYTHONPATH", "")]),
)

import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.schema import ServeDeploySchema  # noqa: E402

from testbed import ray_internals  # noqa: E402


@dataclass(frozen=True)
class Node:
    """A node that was added to the first one."""

    id: str
    """Ray's id of it."""
    raylet: subprocess.Popen[bytes]
    lose: Callable[[], None]
    """kill -9 of the raylet, then of everything else that Ray runs there."""
    drain: Callable[[float], None]
    """Tells Ray that the node goes within so many seconds."""

    def kill_raylet(self) -> None:
        """Kill the raylet alone (SIGKILL); the processes that it had started are left to themselves."""
        self.raylet.kill()
        self.raylet.wait()


class Cluster:
    """A context manager. Applications get a name, a route and a data folder of their own."""

    def __init__(self, folder: Path, *, cpus: int = 8, forks: str = "", is_measured: bool = True) -> None:
        """``forks``: what the fork server of the first node, where there is one, imports besides;
        ``is_measured``: whether that node's agents collect metrics.
        """
        self._folder = folder
        self._cpus = cpus
        self._forks = forks
        self._agents = nullcontext if is_measured else stand_ins
        self._port = free_port()
        self._numbers = count()
        self._deployed: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        with _importing(self._forks), self._agents():
            ray.init(
                address="local",
                num_cpus=self._cpus,
                log_to_driver=False,
                object_store_memory=200_000_000,
            )
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": self._port})
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        serve.shutdown()
        logs = ray_internals.serve_logs()
        ray.shutdown()
        failed = [file.name for file in logs.glob("replica_*") if AFTER_THE_END in file.read_text()]
        assert not failed or kind, f"loops went on in replicas that had been stopped: {failed}"

    @property
    def logs(self) -> Path:
        """The folder with the logs of all processes of this cluster's nodes on this machine."""
        return ray_internals.serve_logs().parent

    @contextmanager
    def node(self, **resources: float) -> Iterator[Node]:
        """Add a node with these ``resources`` (``num_cpus``, ``num_gpus``); it leaves with the context."""
        before = _nodes()
        head = ray_internals.head_node()
        environment = {ORIGIN: str(ray_internals.raylet_of(head).pid)}
        node = ray_internals.start_worker(head, environment, **resources)
        kill = partial(ray_internals.kill, node)
        try:
            # Not by their number: a node that was lost may leave it at the same time.
            wait_for(lambda: bool(_nodes() - before), READY_S, lambda: "the node did not join")
            yield Node(node.node_id, ray_internals.raylet_of(node), kill, partial(ray_internals.drain, node))
        finally:
            kill()
            wait_for(lambda: _nodes() <= before, READY_S, lambda: "the node did not leave")

    @contextmanager
    def deploy(self, *, import_path: str = "serve_app.app:build", **args: Any) -> Iterator[Service]:
        """Deploy the application with these ``args``; yield the service once it is ready."""
        name = f"app{next(self._numbers)}"
        data_dir = self._folder / name / "data"
        self._deployed[name] = {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": import_path,
            "args": {"data_dir": str(data_dir), **args},
            "autoscaling_policy": {"policy_function": "serve_app.scaling_policy:policy"},
        }
        self._apply()
        url = f"http://127.0.0.1:{self._port}/{name}"
        service = Service(url, data_dir, partial(ray_internals.running_pids, name))
        wait_for(lambda: HTTP.get(f"{url}/ready").status_code == 200, READY_S, lambda: f"{name} is not ready")
        try:
            yield service
        finally:
            del self._deployed[name]
            self._apply()

    def redeploy(self, service: Service, **changes: Any) -> None:
        """Change these args of a deployed application, without waiting for its new replicas."""
        self._deployed[service.url.rsplit("/", 1)[1]]["args"] |= changes
        self._apply(wait=False)

    def _apply(self, *, wait: bool = True) -> None:
        """Deploy the applications as they are noted, and wait until all of them run."""
        config = ServeDeploySchema.model_validate({"applications": list(self._deployed.values())})
        ray_internals.deploy(config)
        if wait:
            wait_for(self._all_run, READY_S, lambda: f"not all run: {serve.status()}")

    def _all_run(self) -> bool:
        statuses = ray_internals.application_statuses()
        return all(statuses.get(name) == "RUNNING" for name in self._deployed)


def paced(step_s: float, **changes: Any) -> dict[str, Any]:
    """Return the settings of a model whose steps take ``step_s`` seconds each."""
    return {
        "name": "paced",
        "variant": "demo",
        "weights": str(Path(__file__).parent),
        "engine": "testbed.paced_engine:load_engine",
        "options": {"step_s": step_s},
        **changes,
    }


def demo(**changes: Any) -> dict[str, Any]:
    """Return the settings of the real demo model."""
    return {"name": "demo", "variant": "demo", "weights": str(ROOT / "models/demo/weights"), **changes}


@contextmanager
def _importing(modules: str) -> Iterator[None]:
    """Have the fork server of a node that starts now, if it is to have one, import these modules too."""
    before = os.environ.get(VARIABLE)
    if before is not None:
        os.environ[VARIABLE] = modules
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before


def _nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def metrics_address() -> str:
    """Return host and port of the first node's metrics, its processes' all in one."""
    (port,) = (node["MetricsExportPort"] for node in ray.nodes() if node["Alive"])
    return f"127.0.0.1:{port}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    (port,) = free_ports(1)
    return port
