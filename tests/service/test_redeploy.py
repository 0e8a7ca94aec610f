"""A new configuration for a running service: running tasks end on the old replicas, the rest on the new."""

from pathlib import Path

import pytest

from testbed.cluster import Cluster, paced
from testbed.service import wait_for

SMALL = {"width": 64, "height": 64, "num_frames": 5}
DEADLINE_S = 120


@pytest.mark.timeout(400)
def test_a_replica_that_is_replaced_drains_and_its_successor_takes_the_next_task(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = paced(0.2, cpus_per_replica=0.1, options={"step_s": 0.2, "releases": str(tmp_path)})
    with cluster.deploy(models=[model]) as service:
        running = service.submit(prompt="[[hold:replaced]]", **SMALL, infer_steps=2)
        replaced = service.until(running, "running")["replica"]
        cluster.redeploy(service, limits={"max_queued": 7})
        wait_for(
            lambda: service.health_of(replaced, "paced") == "DRAINING",
            DEADLINE_S,
            lambda: f"{service.devices('paced')}",
        )
        following = service.until(service.submit(**SMALL, infer_steps=2), "succeed", deadline_s=DEADLINE_S)
        assert following["replica"] != replaced
        assert service.status(running)["status"] == "running"
        (tmp_path / "replaced").touch()
        ended = service.until(running, "succeed", deadline_s=DEADLINE_S)
        assert (ended["attempt"], ended["replica"]) == (1, replaced)
