"""A cluster as in the manifests: a head, a front node, and nodes with GPUs that an autoscaler brings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.pod_size import PodSize
from models.variants import VARIANTS
from testbed.autoscaler import Group, Plan, plan
from testbed.cluster import paced
from testbed.many_nodes import ManyNodes
from testbed.redis_server import program
from testbed.service import Service, wait_for
from tests.needed import needed

DEADLINE_S = 120
SMALL = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 5}
RULES = {"lease_s": 6.0, "heartbeat_s": 0.5}
DELAYS = {"upscale_delay_s": 0.5, "downscale_delay_s": 2.0, "downscale_to_zero_delay_s": 2.0}
POD = PodSize.of(VARIANTS["demo"], 1)
GPU_NODE = {"num_cpus": POD.cpus, "num_gpus": POD.gpus}
GROUPS = {
    "front": Group({"CPU": 2, "front": 1}, least=1, most=1),
    "gpu": Group({"CPU": POD.cpus, "GPU": POD.gpus}, least=0, most=4),
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManyNodes]:
    redis = needed(program(), "Redis server", "Debian's package redis-server")
    with ManyNodes(tmp_path_factory.mktemp("nodes"), redis) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def service(nodes: ManyNodes, releases: Path) -> Service:
    """A service with one model, at zero, while there is no GPU yet."""
    model = paced(
        0.05,
        autoscaling={"min_replicas": 0, "max_replicas": "auto", **DELAYS},
        options={"step_s": 0.05, "releases": str(releases)},
    )
    return nodes.deploy(models=[model], max_gpus=2, tasks=RULES)


def test_a_submit_to_a_model_at_zero_brings_a_gpu_node_which_goes_once_it_is_idle(
    nodes: ManyNodes, service: Service
) -> None:
    assert planned(nodes).to_launch == {}
    task = service.submit(**SMALL)
    wait_for(lambda: planned(nodes).to_launch == {"gpu": 1}, DEADLINE_S, lambda: f"{planned(nodes)}")
    gpu = nodes.add("gpu", **GPU_NODE)
    assert service.until(task, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
    wait_for(lambda: planned(nodes).to_end == {gpu.id}, DEADLINE_S, lambda: f"{planned(nodes)}")
    assert planned(nodes).to_launch == {}


def planned(nodes: ManyNodes) -> Plan:
    """What the autoscaler would do with the groups of the demo's manifest."""
    return plan(nodes.head, GROUPS, idle_timeout_s=1.0)


def test_a_head_that_is_killed_and_started_again_costs_no_attempt_and_no_answer(
    nodes: ManyNodes, service: Service, releases: Path
) -> None:
    """On the GPU node of the test before."""
    runs, waits = service.submit(prompt="[[hold:headless]]", **SMALL), service.submit(**SMALL)
    service.until(runs, "running", deadline_s=DEADLINE_S)
    replica = service.replica_pids("model-paced")
    nodes.kill_head()
    comes = service.submit(**SMALL)
    (releases / "headless").touch()
    for task in (runs, waits, comes):
        assert service.until(task, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
    # Before there is a head again: for Serve's controller an idle model is one to scale to zero.
    held = service.submit(prompt="[[hold:killed]]", **SMALL)
    service.until(held, "running", deadline_s=DEADLINE_S)
    nodes.start_head()
    assert service.replica_pids("model-paced") == replica
    service.kill("model-paced")
    (releases / "killed").touch()
    # Serve's controller is there again, and replaces the replica.
    assert service.until(held, "succeed", deadline_s=DEADLINE_S)["attempt"] == 2
