"""Several nodes: a group is on one of them, and its task goes on elsewhere when that node is lost."""

from pathlib import Path

from testbed.cluster import Cluster, paced
from testbed.ranks import assert_gone, group_of, rank_pids

FAST = {"lease_s": 3.0, "heartbeat_s": 0.5}
LARGE = {"num_cpus": 30}
ON_A_LARGE_NODE = {"devices_per_replica": 2, "device": "cpu", "cpus_per_replica": 27.0}
"""More CPUs than the first node has."""


def test_each_rank_sees_a_device_of_its_own(cluster: Cluster) -> None:
    with cluster.node(num_cpus=1, num_gpus=2), group_of(paced(0.0), gpus=1) as group:
        assert sorted(str(process.devices) for process in group.processes) == ["0", "1"]


def test_a_task_of_a_node_that_is_lost_is_done_on_another(cluster: Cluster) -> None:
    with (
        cluster.node(**LARGE) as node,
        cluster.deploy(models=[paced(0.2, **ON_A_LARGE_NODE)], tasks=FAST) as service,
    ):
        on_the_first = rank_pids()
        task_id = service.submit(width=64, height=64, num_frames=5, infer_steps=30)
        service.until(task_id, "running", step=2)
        with cluster.node(**LARGE):
            node.lose()
            ended = service.until(task_id, "succeed", deadline_s=120)
            assert ended["attempt"] == 2
            assert_gone(on_the_first)
            assert len(rank_pids()) == 2
            assert Path(service.data_dir / ended["video_path"]).is_file()


def test_a_killed_raylet_costs_an_attempt_and_its_task_is_done_on_another_node(cluster: Cluster) -> None:
    model = paced(0.2, device="cpu", cpus_per_replica=27.0)
    with cluster.node(**LARGE) as node, cluster.deploy(models=[model], tasks=FAST) as service:
        on_the_first = set(service.replica_pids("model-paced").values())
        task_id = service.submit(width=64, height=64, num_frames=5, infer_steps=30)
        first = service.until(task_id, "running", step=2)["replica"]
        with cluster.node(**LARGE):
            node.kill_raylet()
            ended = service.until(task_id, "succeed", deadline_s=120)
            assert ended["attempt"] == 2 and ended["replica"] != first
            assert_gone(on_the_first)
