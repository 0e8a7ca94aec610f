"""A kill of everything, then a new start: no acknowledged task is lost, changed or done twice."""

from pathlib import Path

import httpx
import pytest

from testbed.cluster import free_port, paced
from testbed.launched import Launched
from testbed.service import HTTP, Service, wait_for

SMALL = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 2}


@pytest.mark.timeout(600)
def test_a_service_killed_whole_goes_on_where_it_was(tmp_path: Path) -> None:
    fast = {"lease_s": 6.0, "heartbeat_s": 1.0}
    with Launched(tmp_path, free_port(), models=[paced(0.2)], tasks=fast) as launched:
        launched.start()
        service = launched.service
        done = service.submit(**SMALL)
        service.until(done, "succeed")
        video = service.result(done)
        cancelled = service.submit(**{**SMALL, "infer_steps": 200})
        service.cancel(cancelled)
        running = service.submit(**{**SMALL, "infer_steps": 30})
        queued = service.submit(**SMALL)
        service.until(running, "running", step=3)

        launched.kill()
        launched.start()

        assert service.status(done)["status"] == "succeed"
        assert service.result(done) == video
        assert service.status(cancelled)["status"] == "cancelled"
        assert service.until(running, "succeed", deadline_s=120)["attempt"] == 2
        assert service.until(queued, "succeed")["attempt"] == 1
        assert service.result(done) == video
        listed = service.get("/v1/tasks")["tasks"]
        assert [task["task_id"] for task in listed] == [queued, running, cancelled, done]

        assert launched.terminate() == 0


@pytest.mark.timeout(600)
def test_a_service_that_is_stopped_lets_short_runs_end_and_hands_long_ones_back(tmp_path: Path) -> None:
    """Allow one attempt for each task, so that a run that is cut off would fail."""
    rules = {"lease_s": 30.0, "heartbeat_s": 1.0, "max_attempts": 1, "drain_s": 6.0}
    options = {"step_s": 0.2, "releases": str(tmp_path)}
    model = paced(0.2, replicas=2, cpus_per_replica=0.1, options=options)
    with Launched(tmp_path, free_port(), models=[model], tasks=rules) as launched:
        launched.start()
        service = launched.service
        long = service.submit(prompt="[[pace:long]]", **{**SMALL, "infer_steps": 200})
        short = service.submit(prompt="[[hold:short]]", **SMALL)
        queued = service.submit(**SMALL)
        service.until(long, "running")
        service.until(short, "running")

        launched.signal()
        wait_for(lambda: _submit(service).status_code == 503, 60, lambda: "submits are still taken")
        refused = _submit(service)
        assert refused.json()["code"] == "draining" and int(refused.headers["Retry-After"]) > 0
        assert service.status(short)["status"] == "running"
        (tmp_path / "short").touch()
        assert launched.ended() == 0

        launched.start()
        ended = service.status(short)
        assert (ended["status"], ended["attempt"]) == ("succeed", 1)
        assert service.result(short)[4:8] == b"ftyp"
        assert service.until(queued, "succeed")["attempt"] == 1
        service.until(long, "running")

        launched.signal()
        launched.signal()  # which hands back at once
        assert launched.ended() == 0

        launched.start()
        (tmp_path / "long").touch()
        assert service.until(long, "succeed")["attempt"] == 3
        assert launched.terminate() == 0


def _submit(service: Service) -> httpx.Response:
    return HTTP.post(f"{service.url}/v1/tasks/video", json={"prompt": "a cat", **SMALL})


def test_a_configuration_with_an_unknown_key_does_not_start(tmp_path: Path) -> None:
    launched = Launched(tmp_path, free_port(), models=[paced(0.2)], task={"lease_s": 6.0})
    with (
        launched,
        pytest.raises(
            AssertionError, match=r"args\.task: is not a setting; did you mean tasks\? allowed here: data_dir"
        ),
    ):
        launched.start()
