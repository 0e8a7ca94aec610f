"""The model deployment: each replica owns an engine and runs one task at a time."""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NoReturn

import ray
from ray import serve
from ray.util import get_current_placement_group

from models.engine import Engine, EngineSettings, FusedLora
from models.errors import EngineLost, ModelError
from models.phases import Phases
from models.pixel_format import video_format
from models.video_spec import VideoSpec
from models.weights.hub import local_folder
from serve_app.config.model_settings import ModelSettings
from serve_app.config.placement import Placement
from serve_app.config.settings import AppSettings
from serve_app.files.artifact_stores import open_artifacts
from serve_app.media.video_encoding import Encoder, VideoEncoding, require
from serve_app.metrics import CacheMetrics
from serve_app.node_port import keep_to_node
from serve_app.replica.claims import Claim, Claims
from serve_app.replica.coordinator_link import CoordinatorLink
from serve_app.replica.engine_factory import engine_factory
from serve_app.replica.fingerprints import Fingerprints
from serve_app.replica.node_drain import NodeDrain
from serve_app.replica.prompt_enhancer import PromptEnhancer
from serve_app.replica.rank_actor import RankProcess
from serve_app.replica.rank_group import RankGroup
from serve_app.replica.run import Generated, Hung, Outcome, Run
from serve_app.replica.run_checkpoints import Checkpoints, NoCheckpoints, RunCheckpoints
from serve_app.replica.run_progress import OnLap, RunProgress
from serve_app.replica.run_spans import RunSpans
from serve_app.replica.warm_up import warm_up
from serve_app.tasks.move_log import RUNNING, structure_logs
from serve_app.tasks.replica import Health, Replica
from serve_app.tasks.task import Task
from serve_app.tracing.tracer import tracer_of

_TICKET_S = 30.0
"""Seconds for which one ticket is valid for further claims. Short tasks follow each other without a round
trip through the router; a long task returns the replica after its run, so that Serve can stop or replace it.
"""

_PAUSE_S = 1.0
"""Seconds for which a replica whose node goes keeps a ticket: Serve is about to stop it, and would bring it
the next one at once.
"""

_CACHED_LORAS = 4
"""The engine is assumed to still cache the LoRAs of this many recent tasks that had different ones."""

_logger = logging.getLogger("ray.serve")


def video_encoding(device: str, encoder: Encoder, ranks: Sequence[RankProcess] | None) -> VideoEncoding:
    """Return how a replica encodes videos: a group's on the GPU of rank 0, which the replica does not see.

    ``ranks``: those of the group, in order; None for a replica that is its own engine.
    """
    return VideoEncoding(video_format(device), encoder, devices=None if ranks is None else ranks[0].devices)


class ModelReplica:
    """Loads the engine and warms it up before Serve counts it as running."""

    _loops: Sequence[asyncio.Task[None]] = ()

    # Serve awaits an asynchronous constructor.
    async def __init__(  # type: ignore[misc]
        self, settings: AppSettings, model: ModelSettings, placement: Placement, *, coordinator: str
    ) -> None:
        keep_to_node()
        self._settings = settings
        self._model = model
        self._placement = placement
        if settings.log_format == "json":
            structure_logs()
        _log_engine()
        context = serve.get_replica_context()
        self._id = context.replica_id.unique_id
        self._artifacts = open_artifacts(settings)
        # All torch work happens in this thread: the event loop stays free for reports and health checks.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._files = ThreadPoolExecutor(max_workers=1, thread_name_prefix="files")
        self._keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._fingerprints: Fingerprints | None = None
        # Serve sends one ticket at a time; after a cancelled one, an old run may still be leaving the engine.
        self._lock = asyncio.Lock()
        self._broken = False
        self._lost = False
        self._bundles = get_current_placement_group()
        self._group: RankGroup | None = None
        rules = settings.tasks
        self._link = CoordinatorLink(
            serve.get_deployment_handle(coordinator, context.app_name),
            self._heartbeat,
            patience_s=rules.heartbeat_s,
            # After that the run's lease has expired, also under a new leader.
            give_up_s=2 * rules.lease_s,
        )
        self._caches = CacheMetrics(model.name)
        self._tracer = tracer_of(settings.tracing, f"model-{model.name}")
        self._claims = Claims(self._link.hand_back)
        asked = settings.prompt_enhancer
        self._enhancer = None if asked is None else PromptEnhancer(asked)
        self._starting: Health | None = Health.STARTING
        self._reason = ""
        self._loras: deque[frozenset[str]] = deque(maxlen=_CACHED_LORAS)
        self._drain = NodeDrain(ray.get_runtime_context().get_node_id())
        loops = self._drain.watch(rules.heartbeat_s), self._send_heartbeats()
        self._loops = [asyncio.create_task(loop) for loop in loops]
        self._engine = await self._start()

    def __del__(self) -> None:
        """End the loops: Serve calls this when the last run has ended, and then stops the threads."""
        for loop in self._loops:
            loop.cancel()

    async def _start(self) -> Engine:
        try:
            engine = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except Exception as error:
            self._starting, self._reason = Health.SETUP_FAILED, _reason(error)
            for loop in self._loops:
                loop.cancel()
            await self._link.send_heartbeat()
            raise
        self._starting = None
        self._caches.evicted(engine.evictions)
        return engine

    async def work(self, ticket: str) -> None:
        """Claim and run a task, and further ones while the ticket is valid; return when all have ended."""
        async with self._lock:
            async with asyncio.TaskGroup() as finishing:
                await self._work(ticket, finishing)
            if self._is_spent:
                await self._link.send_heartbeat()
                self._end()
            if not self._takes_tasks:
                await asyncio.sleep(_PAUSE_S)

    async def _work(self, ticket: str, finishing: asyncio.TaskGroup) -> None:
        return_at = time.monotonic() + _TICKET_S
        claim = partial(self._claim, ticket)
        task = await self._claims.take(claim) if self._takes_tasks else None
        while task is not None:
            task = await self._carry_out(task, claim, finishing, return_at)

    async def _claim(self, ticket: str) -> Task | None:
        cached = sorted(frozenset[str]().union(*self._loras))
        return await self._link.claim(self._model.name, self._id, ticket, cached)

    async def _carry_out(
        self, task: Task, claim: Claim, finishing: asyncio.TaskGroup, return_at: float
    ) -> Task | None:
        """Run the task; return the next task to run, if any."""
        RUNNING.set(task)
        spans = RunSpans(self._tracer, task)
        if self._group is not None:
            self._group.traceparent = spans.traceparent
        run = self._run(task, spans.lap)
        await run.enhance_prompt(self._enhancer)  # before the time of a run, which the next claim goes by
        async with self._claims.after(task, claim) as prefetched:
            self._note_loras(task.spec)
            began = time.monotonic()
            try:
                generated = await run.generate(self._thread, self._files)
            except (Hung, EngineLost):
                _logger.exception("task %s: this replica ends itself", task.uid)
                self._lost = True
                spans.end(None)
                return None
            if run.is_whole:
                self._claims.ran(task, time.monotonic() - began)
            self._caches.evicted(self._engine.evictions)
            finished = finishing.create_task(self._finish(run, generated, spans))
            if generated.error is not None:
                await finished  # its outcome decides if the engine may run another task
            if not self._takes_tasks or (time.monotonic() > return_at and not prefetched.is_under_way):
                return None
            return await prefetched.task()

    def _note_loras(self, spec: VideoSpec) -> None:
        if spec.loras_key is None:
            return
        keys = frozenset({spec.loras_key, *(lora.name for lora in spec.loras)})
        if keys in self._loras:
            self._loras.remove(keys)
        self._loras.append(keys)

    def _run(self, task: Task, on_lap: OnLap) -> Run:
        rules = self._settings.tasks
        has_settings = self._settings.has_settings_in_file(task.owner)
        return Run(
            task,
            self._engine,
            self._artifacts,
            self._link,
            heartbeat_s=rules.heartbeat_s,
            step_timeout_s=rules.step_timeout_s,
            encoding=video_encoding(
                self._placement.device,
                self._model.video_encoder,
                None if self._group is None else self._group.processes,
            ),
            variant=self._model.spec.name if has_settings else None,
            deadline=lambda: self._drain.deadline,
            checkpoints=self._checkpoints(task),
            progress=RunProgress(task.spec, on_lap, self._model.step_shares),
        )

    def _checkpoints(self, task: Task) -> Checkpoints:
        if self._fingerprints is None:
            return NoCheckpoints()
        every_s = self._settings.tasks.checkpoint_every_s
        return RunCheckpoints(
            self._engine, task, self._artifacts, self._keeper, self._fingerprints.of, every_s
        )

    async def _finish(self, run: Run, generated: Generated, spans: RunSpans) -> None:
        outcome = await run.finish(generated, self._files)
        spans.end(outcome)
        # After an unexpected error a CUDA context may be unusable; a CPU engine is only Python objects.
        if outcome is Outcome.BROKEN and self._placement.device != "cpu":
            self._broken = True

    async def check_health(self) -> None:
        """Raise ``RuntimeError`` once the engine cannot be trusted, so that Serve replaces the replica."""
        if self._broken:
            raise RuntimeError("the engine raised an unexpected error")

    def _load(self) -> Engine:
        model = self._model
        if self._placement.ranks == 1:  # of a group rank 0 tries it, which has the device
            require(model.video_encoder)
        settings = EngineSettings(
            variant=model.spec,
            weights=model.weights,
            device=self._placement.device,
            dtype=model.dtype,
            threads=self._placement.threads,
            options=model.options,
            lora_folder=model.lora_folder,
            lora_cache_bytes=model.lora_cache_bytes,
            fused_loras=tuple(FusedLora(lora.file, lora.strength, lora.expert) for lora in model.fused_loras),
            offline=model.offline,
            transformer=model.transformer,
            transformer_2=model.transformer_2,
        )
        # Resolved once for all ranks: a branch on the hub could move between two downloads.
        settings = replace(settings, weights=local_folder(settings))
        phases = Phases()
        group = self._load_group(settings) if self._placement.ranks > 1 else None
        engine = group or engine_factory(self._model.engine)(settings)
        phases.done("loading")
        if self._settings.tasks.checkpoint_every_s:
            self._fingerprints = Fingerprints(settings, model.plan)
            phases.done("fingerprint")
        warm_up(engine, self._model.spec, own_size=self._placement.device != "cpu")
        phases.done("warm-up")
        _logger.info("%s is ready: %s", self._model.name, phases)
        if group is not None:
            group.watch()
        return engine

    def _load_group(self, settings: EngineSettings) -> RankGroup:
        timeout_s = self._settings.tasks.rank_timeout_s
        assert self._bundles is not None
        tracing = self._settings.tracing
        self._group = RankGroup(self._model, settings, self._placement, self._bundles, timeout_s, tracing)
        self._drain.add(rank.node for rank in self._group.processes)
        return self._group

    @property
    def _takes_tasks(self) -> bool:
        """True unless the engine is spent, or the node goes: then Serve stops this replica."""
        return self._is_sound and self._drain.deadline is None

    @property
    def _is_sound(self) -> bool:
        return not (self._broken or self._is_spent)

    @property
    def _is_spent(self) -> bool:
        """True if no further run is possible; the process then ends without waiting for a health check."""
        return self._lost or (self._group is not None and not self._group.is_whole)

    @property
    def _is_without_rank(self) -> bool:
        """True once a group whose rank is about to go, elsewhere, has no run: Serve then starts another.

        At the deadline also with one, whose task is handed back and whose engine is still in a step.
        """
        if not self._drain.is_elsewhere or self._drain.deadline is None:
            return False
        return not self._lock.locked() or time.monotonic() >= self._drain.deadline

    def _end(self) -> NoReturn:
        """Kill the ranks, then this process: Ray starts a replacement at once."""
        self._tracer.close()
        if self._group is not None:
            self._group.end()
        os._exit(1)

    @property
    def _health(self) -> Health:
        if self._starting is not None:
            return self._starting
        if not self._is_sound:
            return Health.POISONED
        return Health.READY if self._takes_tasks else Health.DRAINING

    def _heartbeat(self) -> Replica:
        """Return the heartbeat. BUSY and DRAINING are derived elsewhere; this reports the rest."""
        placed, state = self._placement, (self._health, self._reason)
        return Replica(self._id, self._model.name, placed.device, placed.ranks, 0.0, *state)

    async def _send_heartbeats(self) -> None:
        while True:
            await self._link.stay_known()
            if self._starting is None and self._is_spent:  # a rank died while no run was active
                async with self._lock:
                    self._end()
            if self._is_without_rank:
                self._end()
            await asyncio.sleep(self._settings.tasks.heartbeat_s)


def _reason(error: Exception) -> str:
    """Return a reason for clients: an error's own message may name a server path, so it is only logged."""
    kind = error.code if isinstance(error, ModelError | EngineLost) else type(error).__name__
    return f"The model could not be loaded ({kind}); the service's log says more."


def _log_engine() -> None:
    """Send the engine's log records, such as the chosen attention kernel, to the service's log."""
    engine = logging.getLogger("models")
    engine.setLevel(logging.INFO)
    engine.handlers = list(_logger.handlers)
