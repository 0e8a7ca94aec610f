"""Stand-ins for model replicas that only keep time: the cost of the service itself remains.

A slot claims a task, holds it for a set time, and publishes an empty video: what it says to the coordinator
is what a model replica says, but there is no engine, no ffmpeg and no process of its own to pay for. So
two cores can play a cluster.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import TypeVar

from ray import serve

from models.phase import Phase
from serve_app.config.model_settings import ModelSettings
from serve_app.config.settings import AppSettings
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.claims import Claims
from serve_app.replica.coordinator_link import CoordinatorLink
from serve_app.replica.report_pace import ReportPace
from serve_app.scaling_policy import COORDINATOR
from serve_app.tasks.replica import Replica
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task

_TICKET_S = 30.0  # as a model replica has it
T = TypeVar("T")


class Slots:
    """A stand-in for ``options.slots`` model replicas, whose runs take ``options.seconds`` each.

    A run reports ``options.reports`` times, at even intervals. Where it does so more than once, the first run
    of each slot is cut to a part of its length, another one for each slot, so that runs end evenly from the
    start. Nothing is claimed before the file ``options.gate`` is there. In the folder ``options.trace`` each
    run is a line of ``runs``: its slot, when it began and ended; and each call to the coordinator one of
    ``calls``: its kind, when it was answered, and after how long; all in seconds of the system's monotonic
    clock.
    """

    def __init__(self, settings: AppSettings, model: ModelSettings) -> None:
        context = serve.get_replica_context()
        options = model.options
        self._model = model.name
        self._seconds, self._reports = float(options["seconds"]), int(options["reports"])
        paths = OutputPaths(settings.outputs, settings.output_roots)
        self._artifacts = LocalArtifacts(paths, settings.data_dir)
        self._reporting: set[asyncio.Task[None]] = set()
        self._gate = Path(options["gate"])
        trace, name = Path(options["trace"]), context.replica_id.unique_id
        self._runs = (trace / f"{name}.runs").open("a", buffering=1)
        self._calls = (trace / f"{name}.calls").open("a", buffering=1)
        coordinator = serve.get_deployment_handle(COORDINATOR, context.app_name)
        every_s = self._heartbeat_s = settings.tasks.heartbeat_s
        self._links = {
            slot: CoordinatorLink(
                coordinator,
                partial(Replica, slot, model.name, "none", 1, 0.0),
                patience_s=every_s,
                give_up_s=2 * settings.tasks.lease_s,
            )
            for slot in (f"{name}-{number}" for number in range(int(options["slots"])))
        }
        self._claims = {slot: Claims(link.hand_back) for slot, link in self._links.items()}
        self._free = list(self._links)
        self._first_s = {
            slot: self._seconds * (number + 1) / len(self._free) if self._reports > 1 else self._seconds
            for number, slot in enumerate(self._free)
        }
        self._presence = [
            asyncio.create_task(self._stay_known(slot, every_s, every_s * number / len(self._free)))
            for number, slot in enumerate(self._free)
        ]

    async def work(self, ticket: str) -> None:
        """Work as a model replica does: claim and run, and publish while the next run goes on."""
        while not self._gate.exists():
            await asyncio.sleep(0.1)
        slot = self._free.pop()
        try:
            await self._work(slot, ticket)
        finally:
            self._free.append(slot)

    async def _work(self, slot: str, ticket: str) -> None:
        return_at = time.monotonic() + _TICKET_S
        claims, claim = self._claims[slot], partial(self._claim, slot, ticket)
        async with asyncio.TaskGroup() as finishing:
            task = await claims.take(claim)
            while task is not None:
                async with claims.after(task, claim) as prefetched:
                    began = time.monotonic()
                    is_whole = await self._run(slot, task, began)
                    claims.ran(task, time.monotonic() - began)
                    if is_whole:
                        finishing.create_task(self._publish(slot, task))
                    is_over = time.monotonic() > return_at and not prefetched.is_under_way
                    task = None if is_over else await prefetched.task()

    async def _claim(self, slot: str, ticket: str) -> Task | None:
        return await self._timed("claim", self._links[slot].claim(self._model, slot, ticket, loras=()))

    async def _run(self, slot: str, task: Task, began: float) -> bool:
        """Hold the task for its time; return False if it was to be left before."""
        seconds = self._first_s.pop(slot, self._seconds)
        left = asyncio.Event()
        reporting = asyncio.create_task(self._report(slot, task, began, seconds, left))
        self._reporting.add(reporting)
        reporting.add_done_callback(self._reporting.discard)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(left.wait(), began + seconds - time.monotonic())
        self._runs.write(f"{slot} {began} {time.monotonic()}\n")
        return not left.is_set()

    async def _report(self, slot: str, task: Task, began: float, seconds: float, left: asyncio.Event) -> None:
        """Report at even intervals, one after the other, while the run lasts, and once at least."""
        pace = ReportPace(self._heartbeat_s)
        for number in range(self._reports):
            progress = (number + 1) / (self._reports + 1)
            at = began + progress * self._seconds
            await asyncio.sleep(max(pace.rest_s, at - time.monotonic()))
            if number and time.monotonic() > began + seconds:
                return
            report = self._links[slot].report(task.uid, task.attempt, RunReport(1, progress, Phase.DENOISING))
            if not await pace.timed(self._timed("report", report)):
                left.set()
                return

    async def _publish(self, slot: str, task: Task) -> None:
        self._artifacts.attempt_path(task.uid, task.attempt).touch()
        artifact = self._artifacts.key(task.uid, task.attempt)
        result = RunResult(artifact, {"denoise_s": self._seconds}, task.spec.total_steps)
        await self._timed("publish", self._links[slot].publish(task.uid, task.attempt, result))

    async def _stay_known(self, slot: str, heartbeat_s: float, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            await self._links[slot].stay_known()  # not timed: while a slot runs, its reports do that
            await asyncio.sleep(heartbeat_s)

    async def _timed(self, kind: str, call: Awaitable[T]) -> T:
        began = time.monotonic()
        answer = await call
        ended = time.monotonic()
        self._calls.write(f"{kind} {ended} {ended - began}\n")
        return answer
