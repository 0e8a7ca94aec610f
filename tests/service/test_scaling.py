"""Replicas follow the work on a real cluster: from zero and back, each model by itself, no run cut off."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster import Cluster, paced
from testbed.service import HTTP, Service, wait_for

DELAYS = {"upscale_delay_s": 1.5, "downscale_delay_s": 2.0, "downscale_to_zero_delay_s": 2.0}
RULES = {"lease_s": 6.0, "heartbeat_s": 0.5}
"""Shorter than by themselves: at the end, a replica looks for its coordinator for two leases."""
DEADLINE_S = 120
STEP_S = 0.2


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that lets the model slow be loaded."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that let held runs of the model paced go on."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def service(cluster: Cluster, gate: Path, releases: Path) -> Iterator[Service]:
    rules = {"min_replicas": 0, "max_replicas": 3, "target_queue_wait_s": 4.0, **DELAYS}
    models = [
        paced(
            STEP_S,
            autoscaling=rules,
            options={"step_s": STEP_S, "releases": str(releases)},
            cpus_per_replica=0.1,
        ),
        paced(STEP_S, name="other", autoscaling={**rules, "by": "requests"}, cpus_per_replica=0.1),
        paced(
            STEP_S,
            name="broken",
            autoscaling={**rules, "max_replicas": 1},
            engine="no.such.module:engine",
            cpus_per_replica=0.1,
        ),
        paced(
            STEP_S,
            name="slow",
            autoscaling={**rules, "max_replicas": 1},
            options={"step_s": STEP_S, "gate": str(gate)},
            cpus_per_replica=0.1,
        ),
    ]
    with cluster.deploy(models=models, tasks=RULES) as service:
        yield service


def submit(service: Service, seconds: float, **fields: Any) -> str:
    return service.submit(width=64, height=64, num_frames=5, infer_steps=round(seconds / STEP_S), **fields)


def replicas(service: Service, model: str = "paced") -> int:
    """Return the number of replicas that are up or starting, by Serve's account."""
    wanted: int = service.get("/v1/service/status")["models"][model]["wanted_replicas"] or 0
    return wanted


def until_replicas(service: Service, count: int, model: str = "paced") -> None:
    wait_for(
        lambda: replicas(service, model) == count, DEADLINE_S, lambda: f"{replicas(service, model)} replicas"
    )


@pytest.mark.timeout(400)
def test_a_task_wakes_a_model_at_zero_with_one_replica_and_is_told_so(service: Service) -> None:
    assert HTTP.get(f"{service.url}/ready").status_code == 200
    until_replicas(service, 0)
    answer = HTTP.post(
        f"{service.url}/v1/tasks/video",
        json={"prompt": "a cat", "width": 64, "height": 64, "num_frames": 5, "infer_steps": 20},
    ).json()
    started = "The model paced has no replica up and is being started"
    assert started in answer["message"]
    assert started in service.status(answer["task_id"])["message"]
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, replicas(service), len(service.replica_pids("model-paced")))
        return bool(service.status(answer["task_id"])["status"] == "succeed")

    wait_for(ended, DEADLINE_S, lambda: "the task did not end")
    assert most == 1
    assert service.status(answer["task_id"])["attempt"] == 1


@pytest.mark.timeout(600)
def test_a_burst_brings_every_replica_and_its_end_takes_all_of_them_away(service: Service) -> None:
    until_replicas(service, 0)
    task_ids = [submit(service, 3.0) for _ in range(12)]
    until_replicas(service, 3)
    assert replicas(service, "other") == 0, "each model scales alone"
    for task_id in task_ids:
        assert service.until(task_id, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
    assert len({service.status(task_id)["replica"] for task_id in task_ids}) == 3
    until_replicas(service, 0)


@pytest.mark.timeout(600)
def test_a_run_outlives_the_scaling_down_of_its_replica(service: Service, releases: Path) -> None:
    """Keep the newer of two replicas busy: Serve stops the newer one."""
    until_replicas(service, 0)
    on_older = submit(service, 40.0)
    service.until(on_older, "running", deadline_s=DEADLINE_S)
    # A run that takes longer than the downscale delay: short ones would keep a spare replica.
    on_newer = submit(service, 10.0, prompt="[[hold:newer]]")
    newer = service.until(on_newer, "running", deadline_s=DEADLINE_S)["replica"]
    service.cancel(on_older)
    wait_for(
        lambda: service.health_of(newer, "paced") == "DRAINING",
        DEADLINE_S,
        lambda: f"{service.devices('paced')}",
    )
    assert newer not in service.replica_pids("model-paced")
    assert service.status(on_newer)["status"] == "running"
    (releases / "newer").touch()
    ended = service.until(on_newer, "succeed", deadline_s=DEADLINE_S)
    assert (ended["attempt"], ended["replica"]) == (1, newer)


@pytest.mark.timeout(400)
def test_a_model_that_scales_by_requests_needs_no_figures(service: Service) -> None:
    task_ids = [submit(service, 4.0, model="other") for _ in range(4)]
    until_replicas(service, 3, "other")
    for task_id in task_ids:
        assert service.until(task_id, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
    until_replicas(service, 0, "other")


@pytest.mark.timeout(400)
def test_a_model_that_cannot_start_says_so_and_holds_up_no_other(service: Service) -> None:
    waiting = submit(service, 1.0, model="broken")
    wait_for(
        lambda: "the last attempts to start one failed" in service.status(waiting)["message"],
        DEADLINE_S,
        lambda: service.status(waiting)["message"],
    )
    assert service.status(waiting)["status"] == "submitted"
    failed = [device for device in service.devices("broken") if device["health"] == "SETUP_FAILED"]
    assert failed and failed[0]["reason"].startswith("The model could not be loaded (ModuleNotFoundError)")
    assert service.until(submit(service, 1.0), "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
    assert service.cancel(waiting)["stop_status"] == "success"


@pytest.mark.timeout(400)
def test_a_replica_says_that_it_starts_and_takes_work_once_it_has(service: Service, gate: Path) -> None:
    task_id = submit(service, 4.0, model="slow")
    starting = ["STARTING"]
    wait_for(lambda: service.health("slow") == starting, DEADLINE_S, lambda: f"{service.devices('slow')}")
    assert service.get("/v1/service/status")["models"]["slow"]["replicas"] == 0
    assert service.status(task_id)["status"] == "submitted"
    gate.touch()
    wait_for(lambda: service.health("slow") == ["BUSY"], DEADLINE_S, lambda: f"{service.devices('slow')}")
    service.until(task_id, "succeed", deadline_s=DEADLINE_S)
