"""Stand-ins for model replicas that only keep time: the cost of the service itself remains.

A slot claims a task, holds it for a set time, and publishes an empty video: what it says to the coordinator
is what a model replica says, but there is no engine, no ffmpeg and no process of its own to pay for. So
two cores can play a cluster.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

from ray import serve

from models.phase import Phase
from serve_app.config.model_settings import ModelSettings
from serve_app.config.settings import AppSettings
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.claims import Claims
from serve_app.replica.coordinator_link import CoordinatorLink
from serve_app.scaling_policy import COORDINATOR
from serve_app.tasks.command import Command
from serve_app.tasks.replica import Replica
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task

_TICKET_S = 30.0  # as a model replica has it


class Slots:
    """A stand-in for ``options.slots`` model replicas, whose runs take ``options.seconds`` each.

    Each run is a line in a file in the folder ``options.trace``: when it began and ended, in seconds of the
    system's monotonic clock. Nothing is claimed before the file ``options.gate`` is there.
    """

    def __init__(self, settings: AppSettings, model: ModelSettings) -> None:
        context = serve.get_replica_context()
        self._model = model.name
        self._id = context.replica_id.unique_id
        self._seconds = float(model.options["seconds"])
        paths = OutputPaths(settings.outputs, settings.output_roots)
        self._artifacts = LocalArtifacts(paths, settings.data_dir)
        self._link = CoordinatorLink(
            serve.get_deployment_handle(COORDINATOR, context.app_name),
            patience_s=settings.tasks.heartbeat_s,
            give_up_s=2 * settings.tasks.lease_s,
        )
        self._reports: set[asyncio.Task[Command]] = set()
        self._gate = Path(model.options["gate"])
        self._trace = Path(model.options["trace"], self._id)
        self._claims = Claims(self._link.hand_back)
        self._presence = asyncio.create_task(self._stay_known(settings.tasks.heartbeat_s))

    async def work(self, ticket: str) -> None:
        """Work as a model replica does: claim and run, and publish while the next run goes on."""
        while not self._gate.exists():
            await asyncio.sleep(0.1)
        return_at = time.monotonic() + _TICKET_S
        claim = partial(self._link.claim, self._model, self._id, ticket, loras=())
        async with asyncio.TaskGroup() as finishing:
            task = await self._claims.take(claim)
            while task is not None:
                async with self._claims.after(task, claim) as prefetched:
                    began = time.monotonic()
                    await self._run(task)
                    self._claims.ran(task, time.monotonic() - began)
                    finishing.create_task(self._publish(task))
                    is_over = time.monotonic() > return_at and not prefetched.is_under_way
                    task = None if is_over else await prefetched.task()

    async def _run(self, task: Task) -> None:
        began = time.monotonic()
        await asyncio.sleep(self._seconds / 2)
        report = RunReport(1, 0.5, Phase.DENOISING)
        half = asyncio.create_task(self._link.report(task.uid, task.attempt, report))
        await asyncio.sleep(began + self._seconds - time.monotonic())
        with self._trace.open("a") as trace:
            trace.write(f"{began} {time.monotonic()}\n")
        self._reports.add(half)
        half.add_done_callback(self._reports.discard)

    async def _publish(self, task: Task) -> None:
        self._artifacts.attempt_path(task.uid, task.attempt).touch()
        artifact = self._artifacts.key(task.uid, task.attempt)
        result = RunResult(artifact, {"denoise_s": self._seconds}, task.spec.total_steps)
        await self._link.publish(task.uid, task.attempt, result)

    async def _stay_known(self, heartbeat_s: float) -> None:
        while True:
            await self._link.saw(Replica(self._id, self._model, "none", 1, 0.0))
            await asyncio.sleep(heartbeat_s)
