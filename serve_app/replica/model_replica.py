"""The model deployment: each replica holds one engine on one device and runs one task at a time."""

import asyncio
import importlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ray import serve

from models.engine import Engine, EngineSettings
from serve_app.artifacts import LocalArtifacts
from serve_app.output_paths import OutputPaths
from serve_app.replica.claims import Claim, Claims
from serve_app.replica.coordinator_link import CoordinatorLink
from serve_app.replica.run import Hung, Outcome, Run
from serve_app.replica.warm_up import warm_up
from serve_app.settings import AppSettings, ModelSettings
from serve_app.tasks.task import Task

_TICKET_S = 30.0
"""How long one ticket is good for further claims. Short tasks follow each other without a round trip through
the router; long ones give the replica back each time, so that Serve can stop or replace it in between."""

_logger = logging.getLogger("ray.serve")


class ModelReplica:
    """Loads the engine and warms it up before Serve counts it as running."""

    # Serve awaits an asynchronous constructor.
    async def __init__(  # type: ignore[misc]
        self, settings: AppSettings, model: ModelSettings, *, device: str, threads: int, coordinator: str
    ) -> None:
        self._settings = settings
        self._model = model
        self._device = device
        context = serve.get_replica_context()
        self._id = context.replica_id.unique_id
        paths = OutputPaths(settings.outputs, settings.output_roots)
        self._artifacts = LocalArtifacts(paths, settings.data_dir)
        # All torch work happens in this thread: the event loop stays free to report and to be asked.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._files = ThreadPoolExecutor(max_workers=1, thread_name_prefix="files")
        # Serve sends one ticket at a time; after a cancelled one, an old run may still be leaving the engine.
        self._lock = asyncio.Lock()
        self._broken = False
        self._engine = await asyncio.get_running_loop().run_in_executor(self._thread, self._load, threads)
        rules = settings.tasks
        self._link = CoordinatorLink(
            serve.get_deployment_handle(coordinator, context.app_name),
            patience_s=rules.heartbeat_s,
            # By then the run counts as lost, whoever leads.
            give_up_s=2 * rules.lease_s,
        )
        self._claims = Claims(self._link.hand_back)
        self._presence = asyncio.create_task(self._stay_known())

    async def work(self, ticket: str) -> None:
        """Claim a task and run it, and more of them while the ticket is young; ends when all have ended."""
        return_at = time.monotonic() + _TICKET_S
        claim = partial(self._link.claim, self._model.name, self._id, ticket)
        async with self._lock, asyncio.TaskGroup() as finishing:
            task = None if self._broken else await self._claims.take(claim)
            while task is not None:
                try:
                    task = await self._carry_out(task, claim, finishing, return_at)
                except Hung:
                    _logger.exception("a task hangs: this replica ends itself")
                    os._exit(1)

    async def _carry_out(
        self, task: Task, claim: Claim, finishing: asyncio.TaskGroup, return_at: float
    ) -> Task | None:
        """Run the task; the one to run after it. Raises ``Hung``."""
        async with self._claims.after(task, claim) as following:
            run, began = self._run(task), time.monotonic()
            generated = await run.generate(self._thread, self._files)
            self._claims.ran(task, time.monotonic() - began)
            finished = finishing.create_task(self._finish(run, generated))
            if generated.exception() is not None:
                await finished  # it says whether the engine can be trusted with another task
            if self._broken or (time.monotonic() > return_at and not following.is_under_way):
                return None
            return await following.task()

    def _run(self, task: Task) -> Run:
        rules = self._settings.tasks
        return Run(
            task,
            self._engine,
            self._artifacts,
            self._link,
            heartbeat_s=rules.heartbeat_s,
            step_timeout_s=rules.step_timeout_s,
        )

    async def _finish(self, run: Run, generated: asyncio.Future[ExitStack]) -> None:
        outcome = await run.finish(generated, self._files)
        # After an unexpected error a CUDA context may be unusable; a CPU engine is only Python objects.
        if outcome is Outcome.BROKEN and self._device != "cpu":
            self._broken = True

    async def check_health(self) -> None:
        """Raises once the engine's state cannot be trusted, so that Serve replaces this replica."""
        if self._broken:
            raise RuntimeError("the engine raised an unexpected error")

    def _load(self, threads: int) -> Engine:
        module, _, name = self._model.engine.partition(":")
        factory = getattr(importlib.import_module(module), name)
        engine: Engine = factory(
            EngineSettings(
                variant=self._model.spec,
                weights=Path(self._model.weights),
                device=self._device,
                dtype=self._model.dtype,
                threads=threads,
                options=self._model.options,
            )
        )
        warm_up(engine, self._model.spec)
        return engine

    async def _stay_known(self) -> None:
        while True:
            await self._link.saw(self._id, self._model.name, self._device, 1)
            await asyncio.sleep(self._settings.tasks.heartbeat_s)
