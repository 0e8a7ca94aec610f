"""The names of Ray that the testbed uses and Ray does not promise; a new Ray is tried against them.

Imported only once Ray's environment is set, because Ray reads it on import.
"""

import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ray._private import worker
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.core.generated import autoscaler_pb2
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.serve.context import _get_global_client

from testbed.fork_server import server_name
from testbed.lean_node import leave_out, leave_out_agents

_PREEMPTION: int = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]

leave_out(Node)


class _NodeWithoutAgents(Node):
    """A node beside the first one: what tests read of metrics is that one's."""


leave_out_agents(_NodeWithoutAgents)

_OBJECT_STORE_BYTES = 80_000_000
_GCS_S = 60.0
"""Seconds for which the GCS may be away for one question."""
_TRIES = 3


def head_node() -> Any:
    """Return the node that ``ray.init`` started here, beside which others can be started."""
    return worker._global_node


def start_head(port: int, redis: str, environment: Mapping[str, str]) -> Any:
    """Start a node with the GCS, which listens on ``port`` and keeps its state in Redis (host and port).

    Not by ``cluster_utils.Cluster``: that writes the address where every other Ray on this machine finds it.
    """
    return _start(
        head=True,
        num_cpus=0,
        gcs_server_port=port,
        external_addresses=[redis, redis],
        env_vars=dict(environment),
    )


def start_worker(head: Any, environment: Mapping[str, str], **resources: Any) -> Any:
    """Start a node with these resources beside a head; its processes have this environment too."""
    return _start(
        head=False,
        gcs_address=head.gcs_address,
        env_vars=dict(environment),
        node_manager_port=0,
        dashboard_agent_listen_port=None,
        **resources,
    )


def _start(*, head: bool, **parameters: Any) -> Any:
    """Start a node's processes, again if they are not up in time.

    Ray gives them half a minute, and their agents half of that: too little on a busy machine. A kubelet would
    start the pod again, too.
    """
    for _ in range(_TRIES - 1):
        with suppress(Exception):
            return _try_to_start(head, parameters)
    return _try_to_start(head, parameters)


def _try_to_start(head: bool, parameters: Mapping[str, Any]) -> Any:
    cheap: dict[str, Any] = {"object_store_memory": _OBJECT_STORE_BYTES}
    ray_params = RayParams(**cheap, min_worker_port=0, max_worker_port=0, **parameters)
    # made before its constructor runs, so that what a failing one has started is known
    node = _NodeWithoutAgents.__new__(_NodeWithoutAgents)
    try:
        Node.__init__(node, ray_params, head=head, shutdown_at_exit=False, spawn_reaper=False)
    except Exception:
        kill(node)
        raise
    return node


def kill(node: Any) -> None:
    """Kill every process of a node (SIGKILL), HAProxy too, which would outlive the actor that started it."""
    started: list[psutil.Process] = []
    with suppress(KeyError, psutil.NoSuchProcess):  # which has been killed before
        raylet = psutil.Process(raylet_of(node).pid)
        for above in (raylet, *_fork_servers(raylet)):
            started += above.children(recursive=True)
    node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _fork_servers(raylet: psutil.Process) -> list[psutil.Process]:
    """Return the fork server of a raylet if it is a fork of another's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == server_name(raylet.pid):
                found.append(process)
    return found


def alive(head: Any) -> set[str]:
    """Return the ids of the nodes that live, as the GCS of a head has it."""
    infos = head.get_gcs_client().get_all_node_info(timeout=_GCS_S)
    return {node.hex() for node, info in infos.items() if info.state == GcsNodeInfo.GcsNodeState.ALIVE}


def serve_logs() -> Path:
    """Return the folder of the logs of Serve's processes."""
    return Path(head_node().get_logs_dir_path()) / "serve"


def raylet_of(node: Any) -> subprocess.Popen[bytes]:
    """Return the raylet process of a node that was started here."""
    raylet: subprocess.Popen[bytes] = node.all_processes[PROCESS_TYPE_RAYLET][0].process
    return raylet


def drain(node: Any, within_s: float) -> None:
    """Tell Ray that a node goes within so many seconds, as ``ray drain-node`` and a SIGTERM there do.

    Nothing kills the node then: that is the business of whoever says so.
    """
    deadline_ms = int(1000 * (time.time() + within_s))
    gcs = node.get_gcs_client()
    is_accepted, why_not = gcs.drain_node(node.node_id, _PREEMPTION, "told by a test", deadline_ms)
    assert is_accepted, why_not


def deploy(config: Any) -> None:
    """Have Serve's controller begin to bring about a ``ServeDeploySchema``, as ``serve run`` does."""
    _client().deploy_apps(config, _blocking=False)


def application_statuses() -> Mapping[str, str]:
    """Return the statuses of all applications by name.

    ``serve.status`` makes objects of all that Serve knows, which costs too much to be asked often.
    """
    applications = _client().get_serve_details()["applications"]
    return {name: application["status"] for name, application in applications.items()}


def running_pids(application: str, deployment: str) -> Mapping[str, int]:
    """Return the pids of a deployment's running replicas by replica id."""
    details = _client().get_serve_details()
    replicas = details["applications"][application]["deployments"][deployment]["replicas"]
    return {replica["replica_id"]: replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}


def _client() -> Any:
    """Return the connection to Serve's controller, once ``serve.start`` has made it."""
    return _get_global_client()
