"""Ray's autoscaler, asked what it would do: its own scheduler, for what the GCS says is wanted and there.

What follows from it, pods that are made and deleted, is KubeRay's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.core.generated import autoscaler_pb2
from ray.core.generated import instance_manager_pb2 as managed

_IDLE: int = autoscaler_pb2.NodeStatus.Value("IDLE")  # type: ignore[attr-defined]
_RUNNING: int = autoscaler_pb2.NodeStatus.Value("RUNNING")  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of worker pods, as a RayCluster has it."""

    resources: Mapping[str, float]
    """Those of one pod, by Ray's names."""
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What the autoscaler would do now."""

    to_launch: Mapping[str, int]
    """The number of new pods by group."""
    to_end: frozenset[str]
    """Ids of the nodes that have been idle for long enough."""


def plan(head: Any, groups: Mapping[str, Group], *, idle_timeout_s: float) -> Plan:
    """Ask the scheduler about the cluster of this head."""
    state = get_cluster_resource_state(head.get_gcs_client())
    types = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=group.least,
            max_worker_nodes=group.most,
            resources=dict(group.resources),
        )
        for name, group in groups.items()
    }
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        idle_timeout_s=idle_timeout_s,
        resource_requests=list(state.pending_resource_requests),
        gang_resource_requests=list(state.pending_gang_resource_requests),
        current_instances=[
            _instance(node)
            for node in state.node_states
            if node.status in (_IDLE, _RUNNING) and node.ray_node_type_name in groups
        ],
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert not reply.infeasible_resource_requests and not reply.infeasible_gang_resource_requests
    return Plan(
        {each.instance_type: each.count for each in reply.to_launch},
        frozenset(each.ray_node_id for each in reply.to_terminate),
    )


def _instance(node: Any) -> AutoscalerInstance:
    """Return a node as the autoscaler knows the pod that it is."""
    of_pod = managed.Instance(  # type: ignore[attr-defined]
        instance_id=node.instance_id,
        cloud_instance_id=node.instance_id,
        node_id=node.node_id.hex(),
        instance_type=node.ray_node_type_name,
        status=managed.Instance.RAY_RUNNING,  # type: ignore[attr-defined]
        node_kind=managed.NodeKind.WORKER,  # type: ignore[attr-defined]
    )
    return AutoscalerInstance(cloud_instance_id=node.instance_id, ray_node=node, im_instance=of_pod)
