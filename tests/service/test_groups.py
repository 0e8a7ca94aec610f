"""Replicas of several ranks over HTTP: faults that cost an attempt and nothing else.

The videos of such a replica are in test_guides.py.
"""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from testbed.cluster import Cluster, paced
from testbed.paced_engine import NOTE
from testbed.ranks import assert_gone, rank_pids
from testbed.service import HTTP, Service, wait_for

PAIR = {"devices_per_replica": 2, "cpus_per_replica": 0.9}
RULES = {"lease_s": 30.0, "heartbeat_s": 0.5, "rank_timeout_s": 5.0}
STEPS = 10
RESTART_S = 150
"""The seconds in which a replica and its ranks start on a busy machine."""


@pytest.fixture(scope="module")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = {"step_s": 0.2, "releases": str(tmp_path_factory.mktemp("releases"))}
    with cluster.deploy(models=[paced(0.2, **PAIR, options=options)], tasks=RULES) as service:
        yield service


def small(service: Service, **fields: object) -> str:
    fields = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": STEPS, "seed": 7, **fields}
    return service.submit(**fields)


def test_the_service_says_how_many_devices_a_replica_has(service: Service) -> None:
    def shown() -> list[int]:
        devices = service.get("/v1/service/status")["models"]["paced"]["devices"]
        return [replica["ranks"] for replica in devices]

    wait_for(lambda: bool(shown()), RESTART_S, lambda: "no replica has told of itself")
    assert shown() == [2] and len(rank_pids()) == 2


def test_a_group_shows_its_run_to_who_looks_and_finishes_it_early(service: Service) -> None:
    before = rank_pids()
    task_id = small(service, infer_steps=200)
    service.until(task_id, "running", step=1)
    url = f"{service.url}/v1/tasks/{task_id}"
    wait_for(lambda: HTTP.get(f"{url}/preview").status_code == 200, RESTART_S, lambda: "no preview")
    assert HTTP.get(f"{url}/preview").content[8:12] == b"WEBP"
    assert HTTP.post(f"{url}/finish_early").status_code == 200
    ended = service.until(task_id, "succeed")
    assert (ended["attempt"], ended["num_frames"]) == (1, 5) and ended["step"] < 200
    assert ended["notes"][-1].startswith("Finished early")
    assert rank_pids() == before


def test_a_cancelled_run_and_an_invalid_request_leave_the_ranks_as_they_are(service: Service) -> None:
    before = rank_pids()
    running = small(service, infer_steps=200)
    refused, following = small(service, prompt="[[prepare-error]]"), small(service)
    service.until(running, "running", step=2)
    assert service.cancel(running)["stop_status"] == "success"
    assert service.until(refused, "failed")["error"]["code"] == "invalid_request"
    assert service.until(following, "succeed")["attempt"] == 1
    assert service.status(running)["step"] < 50
    assert rank_pids() == before


def test_what_a_run_notes_on_its_ranks_is_told_behind_the_notes_of_the_submit(service: Service) -> None:
    noted = service.until(small(service, prompt="a red ball [[note]]", infer_steps=1), "succeed")
    assert noted["notes"] == ["The prompt has words that demo does not know: note.", NOTE]


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_hangs_costs_an_attempt_and_nothing_else(service: Service, fault: int) -> None:
    before = rank_pids()
    task_id = small(service, infer_steps=30)
    service.until(task_id, "running", step=2, deadline_s=RESTART_S)
    os.kill(max(before), fault)
    wait_for(lambda: "POISONED" in service.health("paced"), RESTART_S, lambda: f"{service.devices('paced')}")
    assert service.until(task_id, "succeed", deadline_s=RESTART_S)["attempt"] == 2
    assert_gone(before)
    assert len(rank_pids()) == 2


def test_a_rank_that_raises_alone_costs_an_attempt_and_is_replaced_with_its_group(service: Service) -> None:
    before = rank_pids()
    failing, following = small(service, prompt="[[raise:once]]"), small(service)
    assert service.until(failing, "succeed", deadline_s=RESTART_S)["attempt"] == 2
    assert_gone(before)
    assert service.until(following, "succeed", deadline_s=RESTART_S)["attempt"] == 1


def test_a_rank_that_dies_between_runs_costs_nothing(service: Service) -> None:
    before = rank_pids()
    os.kill(min(before), signal.SIGKILL)
    assert_gone(before)
    wait_for(lambda: len(rank_pids()) == 2, RESTART_S, lambda: f"the ranks are {rank_pids()}")
    assert service.until(small(service), "succeed", deadline_s=RESTART_S)["attempt"] == 1


def test_memory_that_runs_out_fails_that_task_alone(service: Service) -> None:
    before = rank_pids()
    failing, following = small(service, prompt="[[oom]]"), small(service)
    ended = service.until(failing, "failed", deadline_s=RESTART_S)
    assert (ended["attempt"], ended["error"]["code"]) == (1, "out_of_memory")
    assert service.until(following, "succeed", deadline_s=RESTART_S)["attempt"] == 1
    assert_gone(before)


def test_a_killed_replica_takes_its_ranks_along_even_one_that_hangs(service: Service) -> None:
    before = rank_pids()
    os.kill(max(before), signal.SIGSTOP)
    service.kill("model-paced")
    assert_gone(before)
    wait_for(lambda: len(rank_pids()) == 2, RESTART_S, lambda: f"the ranks are {rank_pids()}")
    wait_for(lambda: not any(map(psutil.pid_exists, before)), RESTART_S, lambda: f"not reaped: {before}")
