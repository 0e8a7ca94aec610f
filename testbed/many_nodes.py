"""A Ray cluster of many nodes on this machine, set up as in the manifests.

There is a head that runs no replica, a front node with api and coordinator, and nodes with GPUs that come and
go.
"""

from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from testbed.cluster import READY_S, Node, free_port
from testbed.redis_server import RedisServer
from testbed.service import HTTP, Service, wait_for

import ray  # isort: skip  # testbed.cluster sets Ray's environment
from ray import serve
from ray.serve.schema import ServeDeploySchema

from testbed import ray_internals

APPLICATION = "wan-serve"
GCS_RECONNECT_S = "600"
"""Seconds for which the processes of a node wait for another head."""


class ManyNodes:
    """A context manager around the head, its Redis, the front node, and those that are added.

    Clients ask the ingress replica itself, which is on the front node: there is a proxy on the head alone, as
    each would cost a process, and the head may be away.
    """

    def __init__(self, folder: Path, redis: str) -> None:
        """``redis``: the server's program."""
        self._folder = folder
        self._redis = RedisServer(redis, free_port())
        self._gcs_port, self._http_port = free_port(), free_port()
        self._numbers = count()
        self._started: list[Any] = []

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            ending.enter_context(self._redis)
            ending.callback(self._end)
            self.start_head()
            self._add("front", num_cpus=2, resources={"front": 1})
            self._ending = ending.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def start_head(self) -> None:
        """Start the head, or another one in the place of one that was killed."""
        # Serve's controller, which is there, gives ingress replicas their ports.
        ports = {
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self._http_port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(self._http_port + 1),
        }
        self.head = ray_internals.start_head(self._gcs_port, self._redis.address, ports)
        self._started.append(self.head)

    def kill_head(self) -> None:
        """Kill the head's processes (SIGKILL): the GCS, its raylet, and Serve's controller."""
        ray_internals.kill(self.head)

    def add(self, group: str, **resources: Any) -> Node:
        """Add a node with these resources, which the autoscaler knows as one of this group."""
        node = self._add(group, **resources)
        raylet = ray_internals.raylet_of(node)
        return Node(
            node.node_id, raylet, partial(ray_internals.kill, node), partial(ray_internals.drain, node)
        )

    def _add(self, group: str, **resources: Any) -> Any:
        # What KubeRay tells worker pods.
        environment = {
            "RAY_NODE_TYPE_NAME": group,
            "RAY_CLOUD_INSTANCE_ID": f"{group}-{next(self._numbers)}",
            "RAY_gcs_rpc_server_reconnect_timeout_s": GCS_RECONNECT_S,
        }
        node = ray_internals.start_worker(self.head, environment, **resources)
        self._started.append(node)
        wait_for(
            lambda: node.node_id in ray_internals.alive(self.head), READY_S, lambda: "the node did not join"
        )
        return node

    def _end(self) -> None:
        for node in self._started:
            ray_internals.kill(node)

    def deploy(self, **args: Any) -> Service:
        """Deploy the application with these ``args``; return the service once it is ready."""
        front = {"ray_actor_options": {"num_cpus": 0.1, "resources": {"front": 0.01}}}
        application = {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": "serve_app.app:build",
            "args": {"data_dir": str(self._folder / "data"), **args},
            "autoscaling_policy": {"policy_function": "serve_app.scaling_policy:policy"},
            "deployments": [{"name": name, **front} for name in ("api", "coordinator")],
        }
        ray.init(address=self.head.gcs_address, log_to_driver=False)
        try:
            options = {"host": "127.0.0.1", "port": free_port()}
            serve.start(proxy_location="HeadOnly", http_options=options)
            ray_internals.deploy(ServeDeploySchema.model_validate({"applications": [application]}))
            wait_for(self._is_running, READY_S, lambda: f"it does not run: {serve.status()}")
        finally:
            ray.shutdown()  # this process is no part of the cluster any more, and outlives its head
        url = f"http://127.0.0.1:{self._http_port}"
        wait_for(partial(_is_ready, url), READY_S, lambda: "the service is not ready")
        return Service(url, self._folder / "data", self.replica_pids)

    def _is_running(self) -> bool:
        return ray_internals.application_statuses().get(APPLICATION) == "RUNNING"

    def replica_pids(self, deployment: str) -> dict[str, int]:
        """Return the pids of a deployment's replicas, by themselves: nobody is asked for their ids."""
        title = f"ray::ServeReplica:{APPLICATION}:{deployment}"
        parents: dict[int, int] = {}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # of one that has ended meanwhile
                if " ".join(process.cmdline()).startswith(title):
                    parents[process.pid] = process.ppid()
        # A child that is to become ffmpeg has the title of its replica for a moment.
        return {str(pid): pid for pid, parent in parents.items() if parent not in parents}


def _is_ready(url: str) -> bool:
    try:
        return HTTP.get(f"{url}/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
