"""Two replicas of a model: the fences of the store hold, so that a runner that comes back to a task published
by another changes nothing, and so do the limits of a key; and Prometheus sees all of it.

The fences' scenario runs over the service and over one without its fences. No clock decides it: the runs are
held until the files that release them are made, and a replica stays frozen until another has published.
"""

import hashlib
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster import Cluster, free_port, metrics_address, paced
from testbed.drill.checker import Checker
from testbed.service import HTTP, Service, wait_for
from tests.aiperf import profile
from tests.deploy.test_alerts import ALERTS, SERIES
from tests.prometheus import Prometheus

# On a busy machine the leases of live runners may end too: twelve heartbeats to a lease, and all the attempts
# that a service may be given.
RULES = {"lease_s": 6.0, "heartbeat_s": 0.5, "max_attempts": 10}
SMALL = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 5, "seed": 7}
DEADLINE_S = 120.0

pytestmark = pytest.mark.timeout(900)


def key(name: str, **rules: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **rules}


def pair(releases: Path) -> dict[str, Any]:
    """The model's two replicas, whose held runs go on with files in ``releases``."""
    return paced(0.05, replicas=2, cpus_per_replica=0.1, options={"step_s": 0.05, "releases": str(releases)})


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def service(cluster: Cluster, releases: Path) -> Iterator[Service]:
    """A service with two keys, asked without one."""
    keys = [key("alice", max_running=1), key("bob")]
    with cluster.deploy(models=[pair(releases)], tasks=RULES, keys=keys, metrics_by_key=True) as service:
        yield service


class FencedTask:
    """A task that two replicas run: the first is frozen until the second has published.

    ``checker`` has every answer of the service once the task has ended.
    """

    def __init__(self, service: Service, releases: Path) -> None:
        self._service = service
        self._releases = releases
        self.checker = Checker()
        self.task_id = self.submit("first")
        self.checker.acknowledged(self.task_id)

    def submit(self, hold: str) -> str:
        """Submit a task that is held in its first step until ``hold`` is released; its id."""
        return self._service.submit(prompt=f"[[hold:{hold}]]", **SMALL)

    def release(self, hold: str) -> None:
        """Let all runs that are held by that name go on."""
        (self._releases / hold).touch()

    def publish_behind_a_frozen_runner(self) -> None:
        """Freeze the replica that runs the task, have another publish it, and thaw the frozen one."""
        runner: str = self._service.until(self.task_id, "running", deadline_s=DEADLINE_S)["replica"]
        pids = self._service.replica_pids
        # Serve may look at a replica after that has begun a run.
        wait_for(lambda: runner in pids("model-paced"), DEADLINE_S, lambda: f"{pids('model-paced')}")
        pid = pids("model-paced")[runner]
        with frozen(pid):
            wait_for(lambda: self._runs_elsewhere(runner), DEADLINE_S, lambda: "no other replica took it")
            self.release("first")
            self._service.until(self.task_id, "succeed", deadline_s=DEADLINE_S)
            self.look()
        assert self._service.replica_pids("model-paced")[runner] == pid, "it was replaced while frozen"

    def look(self) -> None:
        """Tell the checker the task's present status and its video."""
        status = self._service.status(self.task_id)
        self.checker.status(self.task_id, status)
        if status["status"] == "succeed":
            self.checker.result(self.task_id, self._service.result(self.task_id))

    def keep_both_replicas_busy(self) -> None:
        """Run one further task on each replica at the same time, and have both end."""
        following = [self.submit("second") for _ in range(2)]
        wait_for(
            lambda: all(self._service.status(task_id)["status"] == "running" for task_id in following),
            DEADLINE_S,
            lambda: "one of the replicas takes no task",
        )
        self.release("second")
        for task_id in following:
            self._service.until(task_id, "succeed", deadline_s=DEADLINE_S)

    def _runs_elsewhere(self, runner: str) -> bool:
        status = self._service.status(self.task_id)
        return bool(status["status"] == "running" and status["replica"] != runner)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for as long as the context lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_runner_that_comes_back_to_a_published_task_changes_nothing(
    service: Service, releases: Path
) -> None:
    # The first task of this service: after others a ticket may be on its way to the replica that is frozen,
    # and would wait there.
    task = FencedTask(service.with_key("bob"), releases)
    task.publish_behind_a_frozen_runner()
    # Both replicas are at work again, so the stale run has left the thawed one.
    task.keep_both_replicas_busy()
    task.look()
    assert task.checker.verdict().is_clean, task.checker.verdict()


def test_a_key_at_its_limit_waits_beside_a_free_replica_and_goes_on_after_it(
    service: Service, releases: Path
) -> None:
    assert HTTP.get(f"{service.url}/v1/tasks").status_code == 401
    alice, bob = service.with_key("alice"), service.with_key("bob")
    long = alice.submit(prompt="[[hold:long]]", **SMALL)
    alice.until(long, "running", deadline_s=DEADLINE_S)
    held, his = alice.submit(**SMALL), bob.submit(**SMALL)
    bob.until(his, "succeed", deadline_s=DEADLINE_S)
    assert alice.status(held)["status"] == "submitted"
    assert alice.status(long)["status"] == "running"
    alice.cancel(long)
    alice.until(held, "succeed", deadline_s=DEADLINE_S)
    (releases / "long").touch()


def test_aiperf_has_its_videos_made_and_downloads_them(service: Service, tmp_path: Path) -> None:
    prompt = "a red ball for AIPerf"
    found = profile(
        *(service.url, tmp_path, "--model-names", "paced", "--api-key", "bob"),
        *("--request-count", "4", "--concurrency", "2"),
        prompt=prompt,
        extra={"size": "64x64", "num_frames": 5, "num_inference_steps": 5, "seed": 7},
    )
    assert found["is_complete"] and not found["error_summary"]
    assert found["request_count"]["avg"] == found["video_inference_time"]["count"] == 4
    assert found["video_inference_time"]["min"] >= 5 * 50, "milliseconds: five steps of 0.05 s"
    tasks = service.with_key("bob").get("/v1/tasks?limit=100")["tasks"]
    made = [task for task in tasks if task["prompt"] == prompt]
    assert [(task["status"], task["width"], task["seed"]) for task in made] == [("succeed", 64, 7)] * 4


@pytest.mark.metrics
def test_prometheus_scrapes_every_metric_that_is_documented_and_no_alert_is_broken(
    service: Service, tmp_path: Path
) -> None:
    """Whatever the tests above have run."""
    bob = service.with_key("bob")

    def is_told_its_end() -> bool:
        task_id = bob.submit(**SMALL)
        bob.until(task_id, "succeed", deadline_s=DEADLINE_S)
        with closing(sqlite3.connect(service.data_dir / "tasks.db")) as database:
            (told_s,) = database.execute("SELECT told_s FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return told_s is not None

    wait_for(is_told_its_end, DEADLINE_S, lambda: "no task is told when it will end")
    ends = Counter(
        (key, task["status"])
        for key in ("alice", "bob")
        for task in service.with_key(key).get("/v1/tasks?limit=100")["tasks"]
    )
    by_work = {"ray_wan_serve_backlog_s"}  # is there for models that scale alone
    with Prometheus(tmp_path, free_port(), metrics_address(), ALERTS) as prometheus:
        wanted = SERIES - by_work
        wait_for(
            lambda: wanted <= prometheus.names(), DEADLINE_S, lambda: f"none: {wanted - prometheus.names()}"
        )

        def ended(key: str, status: str) -> float:
            found = prometheus.query(
                f'sum(ray_wan_serve_tasks_total{{model="paced",key="{key}",status="{status}"}})'
            )
            return found[0][1] if found else -1

        told = {"succeeded": "succeed", "cancelled": "cancelled"}

        def is_counted() -> bool:
            return all(
                round(ended(key, status)) == ends[key, word]
                for key in ("alice", "bob")
                for status, word in told.items()
            )

        wait_for(is_counted, DEADLINE_S, lambda: f"not all are counted: {ends}")
        assert 0 < ended("alice", "failed") < 1e-300, "it begins before the first failure"
        idle = 'max(ray_wan_serve_replicas{health="READY"}) == 2'
        wait_for(lambda: bool(prometheus.query(idle)), DEADLINE_S, lambda: "the two replicas are not READY")
        assert prometheus.query("min(ray_wan_serve_free_bytes)")[0][1] > 0
        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}


def test_without_the_fences_the_checker_sees_that_runner_publish_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    unfenced = cluster.deploy(
        import_path="testbed.drill.unfenced:build", models=[pair(tmp_path)], tasks=RULES
    )
    with unfenced as service:
        task = FencedTask(service, tmp_path)
        task.publish_behind_a_frozen_runner()

        def published_again() -> bool:
            task.look()
            return task.task_id in task.checker.duplicated

        wait_for(published_again, DEADLINE_S, lambda: f"published once: {task.checker.verdict()}")
