"""The fences of the store: a runner that comes back to a task published by another changes nothing.

The same scenario runs over the service and over one without its fences. No clock decides it: the runs are
held until the files that release them are made, and a replica stays frozen until another has published.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from serve_app.store.database import Database
from serve_app.store.tables import TASKS
from testbed.cluster import Cluster, paced
from testbed.drill.checker import Checker
from testbed.service import Service, wait_for

# On a busy machine the leases of live runners may end too: twelve heartbeats to a lease, and all the attempts
# that a service may be given.
RULES = {"lease_s": 6.0, "heartbeat_s": 0.5, "max_attempts": 10}
DEADLINE_S = 120.0

pytestmark = pytest.mark.timeout(900)


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
        return self._service.submit(
            prompt=f"[[hold:{hold}]]", width=64, height=64, num_frames=5, infer_steps=5, seed=7
        )

    def release(self, hold: str) -> None:
        """Let all runs that are held by that name go on."""
        (self._releases / hold).touch()

    def publish_behind_a_frozen_runner(self) -> None:
        """Freeze the replica that runs the task, have another publish it, and thaw the frozen one."""
        self._service.until(self.task_id, "running", deadline_s=DEADLINE_S)
        runner = asyncio.run(runner_of(self._service, self.task_id))
        pid = self._service.replica_pids("model-paced")[runner]
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
        return (
            self._service.status(self.task_id)["status"] == "running"
            and asyncio.run(runner_of(self._service, self.task_id)) != runner
        )


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for as long as the context lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def runner_of(service: Service, task_id: str) -> str:
    """Read from the store which replica claimed the task last."""
    database = Database(f"sqlite+aiosqlite:///{service.data_dir / 'tasks.db'}")
    try:
        async with database.read() as connection:
            runner = await connection.scalar(select(TASKS.c.runner).where(TASKS.c.id == task_id))
    finally:
        await database.close()
    assert isinstance(runner, str)
    return runner


@contextmanager
def deployed(cluster: Cluster, folder: Path, import_path: str) -> Iterator[FencedTask]:
    """A service of two replicas, and a task submitted to it."""
    model = paced(0.05, replicas=2, cpus_per_replica=0.1)
    model["options"]["releases"] = str(folder)
    with cluster.deploy(import_path=import_path, models=[model], tasks=RULES) as service:
        yield FencedTask(service, folder)


def test_a_runner_that_comes_back_to_a_published_task_changes_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    with deployed(cluster, tmp_path, "serve_app.app:build") as task:
        task.publish_behind_a_frozen_runner()
        # Both replicas are at work again, so the stale run has left the thawed one.
        task.keep_both_replicas_busy()
        task.look()
    assert task.checker.verdict().is_clean, task.checker.verdict()


def test_without_the_fences_the_checker_sees_that_runner_publish_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    with deployed(cluster, tmp_path, "testbed.drill.unfenced:build") as task:
        task.publish_behind_a_frozen_runner()

        def published_again() -> bool:
            task.look()
            return task.task_id in task.checker.duplicated

        wait_for(published_again, DEADLINE_S, lambda: f"published once: {task.checker.verdict()}")
