"""Several nodes: a group is on one of them, and its task goes on elsewhere when that node is lost."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from models.engine import EngineSettings, GenerationRequest
from models.generate import generate
from models.loading import load_engine
from models.parallel.plan import ParallelPlan
from models.variants import VARIANTS
from serve_app.config.model_settings import ModelSettings
from testbed.cluster import ROOT, Cluster, Node, demo, paced
from testbed.ranks import assert_gone, group_of, rank_pids
from testbed.service import Service, wait_for

MAX_ATTEMPTS = 3
RULES = {"lease_s": 3.0, "heartbeat_s": 0.5, "max_attempts": MAX_ATTEMPTS, "checkpoint_every_s": 0.2}
NOTICE_S = 6.0
STEPS, HELD = 50, 40
"""Denoise steps of a run, and how many are done when the fault strikes."""
SMALL = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": STEPS}
LARGE = {"num_cpus": 30}
ON_A_LARGE_NODE = {"devices_per_replica": 2, "device": "cpu", "cpus_per_replica": 27.0}
"""More CPUs than the first node has."""
FAULTS: dict[str, Callable[[Node], None]] = {
    "drain": lambda node: node.drain(NOTICE_S),
    "node": lambda node: node.lose(),
    "raylet": Node.kill_raylet,
}
DEADLINE_S = 120
REQUEST = GenerationRequest.of(VARIANTS["demo"], "a red ball", width=64, height=32, num_frames=9, steps=3)


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> Iterator[Node]:
    """A large node with two GPUs, the first that is lost."""
    with cluster.node(num_gpus=2, **LARGE) as node:
        yield node


def test_each_rank_sees_a_device_of_its_own_and_one_that_hangs_elsewhere_is_killed_with_its_group(
    large: Node,
) -> None:
    with group_of(paced(0.0), gpus=1) as group:
        assert sorted(str(process.devices) for process in group.processes) == ["0", "1"]
        pids = {process.pid for process in group.processes}
        os.kill(min(pids), signal.SIGSTOP)
        group.end()
        assert_gone(pids)  # while their placement group is still there


def test_a_ring_over_two_nodes_makes_the_video_of_one_device_and_misses_a_rank_elsewhere(large: Node) -> None:
    alone = load_engine(EngineSettings(VARIANTS["demo"], ROOT / "models/demo/weights"))
    model = demo(parallel={"cfg": 1})
    assert ModelSettings(**model, devices_per_replica=2, nodes_per_replica=2).plan == ParallelPlan(ring=2)
    with group_of(model, nodes=2, timeout_s=DEADLINE_S) as group:
        here, there = (rank.node for rank in group.processes)
        assert here != there
        expected, made = (np.concatenate(list(generate(each, REQUEST))) for each in (alone, group))
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert group.is_whole
        own = ray.get_runtime_context().get_node_id()
        elsewhere = next(rank for rank in group.processes if rank.node != own)
        os.kill(elsewhere.pid, signal.SIGKILL)
        wait_for(lambda: not group.is_whole, DEADLINE_S, lambda: "the group does not miss its rank")


@pytest.mark.timeout(400)
def test_a_task_goes_on_on_another_node_when_its_node_or_the_raylet_there_is_lost_or_drains(
    cluster: Cluster, large: Node, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    options = {"step_s": 0.02, "releases": str(tmp_path), "steps": str(steps)}
    model = paced(0.0, **ON_A_LARGE_NODE, options=options)
    here = large
    with ExitStack() as nodes, cluster.deploy(models=[model], tasks=RULES) as service:
        for name, lose in FAULTS.items():
            ranks = rank_pids()
            task_id = service.submit(prompt=f"[[hold:{name}@{HELD}]]", **SMALL)
            first = service.until(task_id, "running", step=HELD, deadline_s=DEADLINE_S)["replica"]
            before = set(processes(steps))
            wait_for(lambda: bool(kept(service)), DEADLINE_S, lambda: "no checkpoint was made")
            at_least = max(kept(service))
            there = nodes.enter_context(cluster.node(**LARGE))
            lose(here)
            until_attempt(service, task_id, 2)
            (tmp_path / name).touch()
            ended = service.until(task_id, "succeed", deadline_s=DEADLINE_S)
            assert ended["attempt"] == 2 and ended["replica"] != first
            assert at_least <= (resumed := resumed_step(ended)) <= HELD
            (new,) = set(processes(steps)) - before
            warm_up, *done = processes(steps)[new]
            assert (warm_up, done) == (1, list(range(resumed + 1, STEPS + 1)))
            assert_gone(ranks)
            assert len(rank_pids()) == 2
            assert Path(service.data_dir / ended["video_path"]).is_file()
            assert attempts_left(service, task_id) == MAX_ATTEMPTS - (1 if name == "drain" else 2)
            wait_for(lambda: not kept(service), DEADLINE_S, lambda: f"left behind: {kept(service)}")
            here = there
        assert selected(service, "SELECT count(*) FROM rates") == 0  # a part of a run says nothing of a whole


def processes(steps: Path) -> dict[str, list[int]]:
    """Return the steps that each engine has done, in order."""
    done: dict[str, list[int]] = {}
    for line in steps.read_text().splitlines():
        process, step, _ = line.split()
        done.setdefault(process, []).append(int(step))
    return done


def kept(service: Service) -> list[int]:
    """Return the steps of the checkpoints that there are, all of the task that runs."""
    files = (service.data_dir / "checkpoints").glob("t-*/[0-9]*.safetensors")
    return [int(file.stem.rpartition("-")[2]) for file in files]


def resumed_step(status: dict[str, Any]) -> int:
    """Return the step that the last attempt went on from, as the task's notes tell."""
    (note,) = (note for note in status["notes"] if note.startswith("Attempt 2 went on from step "))
    return int(note.split()[6])


@pytest.mark.timeout(400)
def test_a_group_on_two_nodes_hands_its_task_back_when_the_node_of_a_rank_drains(
    cluster: Cluster, tmp_path: Path
) -> None:
    on_two = {"devices_per_replica": 2, "nodes_per_replica": 2, "device": "cpu", "cpus_per_replica": 3.0}
    model = paced(0.0, **on_two, options={"step_s": 0.0, "releases": str(tmp_path)})
    # One CPU is too little for the replica with its rank: these are on the first node.
    with cluster.node(num_cpus=1) as here, cluster.deploy(models=[model], tasks=RULES) as service:
        task_id = service.submit(prompt="[[hold:drain]]", **SMALL)
        first = service.until(task_id, "running", deadline_s=DEADLINE_S)["replica"]
        ranks = rank_pids()
        with cluster.node(num_cpus=1):
            here.drain(NOTICE_S)
            until_attempt(service, task_id, 2)
            (tmp_path / "drain").touch()
            ended = service.until(task_id, "succeed", deadline_s=DEADLINE_S)
            assert ended["attempt"] == 2 and ended["replica"] != first
            assert attempts_left(service, task_id) == MAX_ATTEMPTS - 1
            assert_gone(ranks)


def until_attempt(service: Service, task_id: str, attempt: int) -> None:
    wait_for(
        lambda: service.reachable_status(task_id).get("attempt") == attempt,
        DEADLINE_S,
        lambda: f"task {task_id} stands at {service.reachable_status(task_id)}",
    )


def attempts_left(service: Service, task_id: str) -> int:
    """Return how often the task could still be run, as its row says."""
    return selected(service, "SELECT attempts_left FROM tasks WHERE id = ?", task_id)


def selected(service: Service, query: str, *values: str) -> int:
    """Return the one number that a query of the service's database finds."""
    with closing(sqlite3.connect(service.data_dir / "tasks.db")) as database:
        (found,) = database.execute(query, values).fetchone()
    return int(found)
