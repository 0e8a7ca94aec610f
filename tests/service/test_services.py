"""Two services on one PostgreSQL database and one data folder, as while a version takes another's place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.cluster import Cluster, paced
from testbed.postgres_server import PostgresServer
from testbed.service import HTTP, Service, wait_for

pytestmark = pytest.mark.postgres

# A run that is given up has no second attempt: it fails.
RULES = {"lease_s": 6.0, "heartbeat_s": 0.5, "max_attempts": 1, "drain_s": 15.0, "longest_run_s": 5.0}
DEADLINE_S = 120


class Versions:
    """What every version of the service has in common."""

    def __init__(self, cluster: Cluster, database_url: str, folder: Path) -> None:
        self._cluster = cluster
        self._database_url = database_url
        self._folder = folder

    @contextmanager
    def start(self) -> Iterator[Service]:
        """Start another service on the database, and delete it at the end."""
        model = paced(
            0.05, replicas=2, cpus_per_replica=0.1, options={"step_s": 0.05, "releases": str(self._folder)}
        )
        data_dir = str(self._folder / "data")
        with self._cluster.deploy(
            data_dir=data_dir, database_url=self._database_url, models=[model], tasks=RULES
        ) as service:
            yield service

    def release(self, name: str) -> None:
        """Let the runs end that are held under this name."""
        (self._folder / name).touch()


def small(service: Service, prompt: str = "a cat") -> str:
    return service.submit(width=64, height=64, num_frames=5, infer_steps=2, prompt=prompt)


def ran_in(service: Service, status: dict[str, object]) -> bool:
    """Return whether the run of this status is, or was, on a replica of the service."""
    return status["replica"] in service.replica_pids("model-paced")


@pytest.mark.timeout(400)
def test_a_version_rolls_forward_and_back_and_no_task_is_lost_nor_an_attempt_used(
    cluster: Cluster, postgres: PostgresServer, tmp_path: Path
) -> None:
    versions = Versions(cluster, postgres.new_database(), tmp_path)
    with versions.start() as old:
        ends, is_handed_back = small(old, "[[hold:ends]]"), small(old, "[[hold:back]]")
        for task_id in (ends, is_handed_back):
            old.until(task_id, "running")
        waits = small(old)
        with versions.start() as new:
            assert ran_in(new, old.until(waits, "succeed")), "the newer service takes what waits"
            versions.release("ends")
            ended = new.until(ends, "succeed")
            assert ran_in(old, ended) and ended["attempt"] == 1
            assert new.result(ends) == old.result(ends)

            cancelled = small(old, "[[hold:never]]")
            status = new.until(cancelled, "running")
            assert ran_in(new, status), f"on {status['replica']}, not of {new.replica_pids('model-paced')}"
            assert old.cancel(cancelled)["stop_status"] == "success"

            wait_for(
                lambda: ran_in(new, new.status(is_handed_back)),
                DEADLINE_S,
                lambda: f"not handed back: {new.status(is_handed_back)}",
            )
            versions.release("back")
            new.until(is_handed_back, "succeed")

            old.kill("coordinator")  # the one after it does not take the lead
            assert all(ran_in(new, old.until(small(old), "succeed")) for _ in range(3))
        # The newer service is deleted without a word: the older one leads again after a lease.
        assert ran_in(old, old.until(small(old), "succeed", deadline_s=DEADLINE_S))
        wait_for(
            lambda: HTTP.get(f"{old.url}/ready").status_code == 200,
            DEADLINE_S,
            lambda: "the older service is not ready",
        )
        statuses = {task["status"] for task in old.get("/v1/tasks")["tasks"]}
        assert statuses == {"succeed", "cancelled"}
