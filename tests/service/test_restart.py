"""kill -9 of everything, then a new start: nothing that was acknowledged is lost, changed or done twice."""

from pathlib import Path

import pytest

from tests.service.cluster import free_port, paced
from tests.service.launched import Launched

SMALL = {"width": 64, "height": 64, "num_frames": 5}


@pytest.mark.timeout(600)
def test_a_service_killed_whole_goes_on_where_it_was(tmp_path: Path) -> None:
    fast = {"lease_s": 6.0, "heartbeat_s": 1.0}
    with Launched(tmp_path, free_port(), models=[paced(0.2)], tasks=fast) as launched:
        launched.start()
        service = launched.service
        done = service.submit(**SMALL, infer_steps=2)
        service.until(done, "succeed")
        video = service.result(done)
        cancelled = service.submit(**SMALL, infer_steps=200)
        service.cancel(cancelled)
        running = service.submit(**SMALL, infer_steps=30)
        queued = service.submit(**SMALL, infer_steps=2)
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


def test_a_configuration_with_an_unknown_key_does_not_start(tmp_path: Path) -> None:
    launched = Launched(tmp_path, free_port(), models=[paced(0.2)], task={"lease_s": 6.0})
    with (
        launched,
        pytest.raises(AssertionError, match=r"args\.task: is not a setting; allowed here: data_dir"),
    ):
        launched.start()
