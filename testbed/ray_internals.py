"""The names of Ray that the testbed uses and Ray does not promise; a new Ray is tried against them.

Imported only once Ray's environment is set, because Ray reads it on import.
"""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray._private import worker
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.core.generated import autoscaler_pb2
from ray.serve.context import _get_global_client

_PREEMPTION: int = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]


def leave_out_monitors() -> None:
    """Have the nodes that this process starts leave out two processes of which no test sees anything: Ray's
    autoscaler, which has nothing to scale here, and the monitor that prints the workers' logs at the driver.
    """
    for name in ("start_monitor", "start_log_monitor"):
        assert hasattr(Node, name)
        setattr(Node, name, lambda _node: None)


def head_node() -> Any:
    """Return the node that ``ray.init`` started here, to which ``cluster_utils.Cluster`` can add others."""
    return worker._global_node


def serve_logs() -> Path:
    """Return the folder of the logs of Serve's processes."""
    return Path(head_node().get_logs_dir_path()) / "serve"


def raylet_of(node: Any) -> subprocess.Popen[bytes]:
    """Return the raylet process of a node that ``cluster_utils.Cluster.add_node`` made."""
    raylet: subprocess.Popen[bytes] = node.all_processes[PROCESS_TYPE_RAYLET][0].process
    return raylet


def drain(node: Any, within_s: float) -> None:
    """Tell Ray that a node goes within so many seconds, as ``ray drain-node`` and a SIGTERM there do.

    Nothing kills the node then: that is the business of whoever says so.
    """
    deadline_ms = int(1000 * (time.time() + within_s))
    gcs = head_node().get_gcs_client()
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
