"""The coordinator deployment: starts, tracks and ends all runs.

Its state is in the task store: a new leader continues from the store while the replicas keep running.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.handle import DeploymentHandle

from serve_app.config.settings import AppSettings, TaskSettings
from serve_app.coordinator.deployments import Deployments
from serve_app.coordinator.dispatch import Dispatcher, ReplicaLost
from serve_app.coordinator.hand_backs import HandBacks
from serve_app.coordinator.handover import Handover
from serve_app.coordinator.heartbeats import Heartbeats
from serve_app.coordinator.janitor import Janitor
from serve_app.coordinator.leases import Leases
from serve_app.coordinator.outgoing import Outgoing
from serve_app.coordinator.removed_models import RemovedModels
from serve_app.coordinator.report_server import ReportServer
from serve_app.coordinator.room import Room
from serve_app.coordinator.scaling import Scaling, deployment_of
from serve_app.coordinator.service_name import service_name
from serve_app.coordinator.watch import Watch
from serve_app.errors import StoreUnavailable
from serve_app.files.artifact_stores import open_artifacts
from serve_app.files.artifacts import Artifacts
from serve_app.files.free_disk import FreeDisk
from serve_app.metrics import ServiceMetrics, StoreMetrics, TaskMetrics
from serve_app.node_port import keep_to_node
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.leadership import Superseded
from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.command import Command
from serve_app.tasks.move_log import log_move, structure_logs
from serve_app.tasks.replica import ENDED, Health, Replica
from serve_app.tasks.report_line import Address
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task, TaskError
from serve_app.tracing.task_spans import TaskSpans
from serve_app.tracing.tracer import tracer_of
from serve_app.webhooks.message import Describe

_DEPLOYMENTS_CHECK_S = 2.0
_DRAIN_CHECK_S = 0.2
_STORE_RETRY_S = 1.0
_logger = logging.getLogger("ray.serve")


class Coordinator:
    """Answers all replicas, and runs the background loops: dispatcher, lease check, janitor."""

    _loops: Sequence[asyncio.Task[None]] = ()
    _failure: BaseException | None = None

    # Serve awaits an asynchronous constructor.
    async def __init__(  # type: ignore[misc]
        self,
        settings: AppSettings,
        models: Mapping[str, DeploymentHandle[Any]],
        windows: Mapping[str, int],
        *,
        describe: Describe,
    ) -> None:
        """``describe`` returns the status document of a task, for the messages to its client."""
        if settings.log_format == "json":
            structure_logs()
        self._models = models
        self._database = Database(settings.store_url, on_transaction=StoreMetrics("coordinator").took)
        await self._database.migrate()
        self._fleet = Fleet(self._database)
        self._heartbeats = Heartbeats(self._fleet)
        self._metrics = TaskMetrics(list(models), settings.told_apart)
        gauges = ServiceMetrics(list(models))
        self._traces = TaskSpans(tracer_of(settings.tracing, "coordinator"))
        rules = settings.tasks
        awaited = {m.name for m in settings.models if m.autoscaling is None or m.autoscaling.min_replicas}
        self._ledger = await RunLedger.take_lead(
            self._database,
            service=service_name(),
            is_ready=not awaited,
            lease_s=rules.lease_s,
            grace_s=rules.grace_s,
            shares=settings.shares,
        )
        self._hand_backs = HandBacks(self.hand_back, runs_are_kept=rules.checkpoint_every_s > 0)
        self._handover = Handover(self._ledger, self._hand_backs.want, awaited, patience_s=rules.drain_s)
        names = {model.name: deployment_of(model.name) for model in settings.models}
        self._deployments = Deployments(serve.get_replica_context().app_name, names)
        self._scaling = self._scaling_of(settings, windows, gauges)
        await self._scaling.recall()
        self._scaled = frozenset(model.name for model in settings.models if model.autoscaling)
        if self._ledger.seat.leads:
            await self._fleet.forget_scales(but=self._scaled)
        artifacts = open_artifacts(settings)
        self._room = Room(FreeDisk(artifacts.free_bytes, settings.limits.min_free_bytes))
        self._dispatcher = Dispatcher(
            self._ledger, list(models), self._scaling.window, self._send, self._give_up, self._room.is_there
        )
        self._leases = self._leases_of(rules)
        self._outgoing = Outgoing(
            settings, self._database, self._ledger.epoch, artifacts, describe, self._traces
        )
        self._janitor = self._janitor_of(settings, artifacts)
        self._removed = RemovedModels(self._database, self._ledger, settings.models, rules, self._settled)
        self._watch = self._watch_of(settings, gauges)
        self._followups: set[asyncio.Task[None]] = set()
        self._line = ReportServer(self.report, self.saw)
        await self._line.start(ray.util.get_node_ip_address())
        self._loops = self._begin_loops()

    def _scaling_of(
        self, settings: AppSettings, windows: Mapping[str, int], gauges: ServiceMetrics
    ) -> Scaling:
        return Scaling(
            self._database,
            self._fleet,
            settings.models,
            windows,
            self._deployments.stopping,
            lambda: self._ledger.seat,
            seen_within_s=settings.tasks.silence_s,
            on_backlog=gauges.backlog,
        )

    def _leases_of(self, rules: TaskSettings) -> Leases:
        expired = partial(self._ended, "expire")
        return Leases(self._ledger, self._look_around, self._note_given_up, expired, rules)

    def _janitor_of(self, settings: AppSettings, artifacts: Artifacts) -> Janitor:
        forget = self._outgoing.sweep
        return Janitor(settings, self._database, self._ledger, self._fleet, artifacts, forget)

    def _watch_of(self, settings: AppSettings, gauges: ServiceMetrics) -> Watch:
        return Watch(
            gauges,
            self._ledger,
            self._fleet,
            self._outgoing.measure,
            {"data_dir": settings.data_dir, "output_root": settings.outputs},
            self._health,
            seen_within_s=settings.tasks.silence_s,
        )

    def _begin_loops(self) -> Sequence[asyncio.Task[None]]:
        keep_to_node()
        loops = (
            self._dispatcher.run,
            self._leases.run,
            self._check_deployments,
            self._janitor.run,
            self._removed.run,
            self._outgoing.messages.run,
            self._outgoing.videos.run,
            self._watch.run,
        )
        return [asyncio.create_task(self._supervise(loop)) for loop in loops]

    async def nudge(self) -> None:
        """Wake the dispatcher and the couriers after a submit or a cancel."""
        self._dispatcher.nudge()
        self._outgoing.nudge()

    async def report_line(self) -> Address | None:
        """Return where replicas can say the same as to ``saw`` and ``report``, at less cost."""
        return self._line.address

    async def saw(self, replica: Replica) -> None:
        """Record a replica's heartbeat, stamped with this process's clock."""
        if replica.works:
            self._handover.loaded(replica.model)
        replica = replace(replica, seen_at=time.time(), health=self._health(replica))
        self._heartbeats.saw(replica)
        if self._scaling.saw(replica):
            await self._heartbeats.write()
            self._dispatcher.nudge()

    async def record_autoscaling_stats(self) -> Mapping[str, float]:
        """Return the figures for the autoscaling policy; Serve calls this method at each metrics interval."""
        return await self._scaling.figures()

    async def claim(self, model: str, runner: str, ticket: str, loras: Collection[str] = ()) -> Task | None:
        """Claim the next task of ``model`` for ``runner``, or return None; ``loras``: the LoRAs cached there.

        Raises ``Superseded``.
        """
        if runner in self._deployments.stopping(model) or not await self._room.is_there():
            return None  # a new run would delay the stop, or find no room for its video
        task = await self._ledger.claim(model, runner, loras)
        if task is not None:
            self._dispatcher.claimed(ticket, task)
            self._metrics.claimed(task)
            self._traces.claimed(task)
            log_move("claim", task, waited_s=round(time.time() - task.created_at, 3))
            self._nudge_for(task)
            # no business of the runner, and unknown to one of the version before
            task = replace(task, callback=None, upload_url=None)
        return task

    async def report(self, uid: str, attempt: int, report: RunReport) -> int:
        """Record a run's progress and renew its lease; return a ``Command`` to the runner."""
        # One of the version before has no heartbeat in it.
        if (replica := getattr(report, "replica", None)) is not None:
            await self.saw(replica)
        try:
            command = await self._ledger.report(uid, attempt, report)
        except Superseded:
            self._line.close()
            return int(Command.GO_ON)  # only the new leader may end the run
        if command and self._hand_backs.is_wanted(uid, attempt):
            command |= Command.HAND_BACK
        return int(command)

    async def publish(self, uid: str, attempt: int, result: RunResult) -> bool:
        """Commit a finished video; return False if the attempt is no longer current.

        Raises ``Superseded``.
        """
        task = await self._ledger.publish(uid, attempt, result)
        if task is None:
            return await self._is_published(uid, attempt)
        seconds = sum(result.timings.values())
        self._ended("publish", task, seconds=round(seconds, 3))
        # The video is committed: the rest is idempotent and need not keep the runner waiting.
        # A replica of the version before sends a result without it.
        is_whole = not getattr(result, "resumed_step", 0)
        followup = asyncio.create_task(self._after_publish(task, seconds if is_whole else None))
        self._followups.add(followup)
        followup.add_done_callback(self._followups.discard)
        return True

    async def hand_back(self, uid: str, attempt: int) -> None:
        """Return a task to the queue; the attempt does not count. Raises ``Superseded``."""
        task = await self._ledger.hand_back(uid, attempt)
        if task is not None:
            log_move("hand_back", task)
            self._dispatcher.nudge()

    async def drain(self, patience_s: float) -> None:
        """Start no further run; return once no task is running. Raises ``Superseded``.

        Runs that last longer than ``patience_s`` seconds are wanted back: their runners leave them at their
        next step, or, if that is long in coming, at their next report.
        """
        await self._ledger.drain()
        _logger.info("draining: nothing is begun any more")
        ends_at = time.monotonic() + patience_s
        while running := await self._ledger.running():
            if time.monotonic() >= ends_at:
                for uid, attempt in running:
                    await self._hand_backs.want(uid, attempt)
            await asyncio.sleep(_DRAIN_CHECK_S)

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        """End a task with a model or input error; return False if the attempt is no longer current.

        Raises ``Superseded``.
        """
        task = await self._ledger.fail(uid, attempt, error)
        if task is not None:
            self._ended("fail", task)
        return task is not None

    async def give_up(self, uid: str, attempt: int) -> bool:
        """Queue a task again whose attempt the machine has failed, or fail it if that was the last one.

        Returns False if the attempt is no longer current. Raises ``Superseded``.
        """
        task = await self._ledger.give_up(uid, attempt)
        if task is not None:
            self._note_given_up(task)
        return task is not None

    async def check_health(self) -> None:
        """Raise ``RuntimeError`` once a background loop has ended, so that Serve replaces the coordinator."""
        if self._failure is not None:
            raise RuntimeError("a background loop of the coordinator ended") from self._failure

    async def _after_publish(self, task: Task, seconds: float | None) -> None:
        """Link the video; learn from the ``seconds`` of its run, None for one that did a part of the work."""
        await asyncio.to_thread(self._janitor.link, task)
        if seconds is not None and task.work > 0:
            self._heartbeats.learn(task.model, task.tokens, seconds / task.work)

    async def _is_published(self, uid: str, attempt: int) -> bool:
        # A runner repeats a publish whose answer was lost with the previous coordinator.
        task = await self._ledger.find(uid)
        return task is not None and task.artifact is not None and task.attempt == attempt

    async def _send(self, model: str, ticket: str) -> None:
        try:
            await self._models[model].work.remote(ticket)
        except ActorUnavailableError:
            raise
        except RayActorError as error:
            raise ReplicaLost from error

    async def _give_up(self, task: Task) -> None:
        await self.give_up(task.uid, task.attempt)

    def _note_given_up(self, task: Task) -> None:
        if task.is_final:
            self._ended("lose", task)
        else:
            self._metrics.retried(task)
            self._traces.requeued(task)
            log_move("requeue", task)
        self._dispatcher.nudge()

    def _settled(self, task: Task) -> None:
        if task.is_final:
            self._ended("strand", task)
        else:
            log_move("reassign", task)
            self._dispatcher.nudge()

    def _ended(self, move: str, task: Task, **facts: float) -> None:
        self._metrics.ended(task)
        self._traces.ended(task)
        log_move(move, task, **facts)
        self._nudge_for(task)

    def _nudge_for(self, task: Task) -> None:
        if task.callback is not None or task.upload_url is not None:
            self._outgoing.nudge()

    async def _look_around(self) -> None:
        await self._handover.look()
        await self._heartbeats.write()

    def _health(self, replica: Replica) -> Health:
        # Serve does not notify a replica that it is being stopped.
        is_stopping = replica.replica_id in self._deployments.stopping(replica.model)
        idles = replica.works and not self._ledger.seat.leads
        return Health.DRAINING if replica.health not in ENDED and (is_stopping or idles) else replica.health

    async def _check_deployments(self) -> None:
        stored = dict(await self._fleet.scales())
        while True:
            for scale in await self._deployments.look():
                if scale.model not in self._scaled:
                    continue
                if not self._ledger.seat.leads:
                    stored.pop(scale.model, None)  # another service writes its own
                elif scale != stored.get(scale.model):
                    await self._fleet.note_scale(scale)
                    stored[scale.model] = scale
                self._scaling.note(scale)
            await asyncio.sleep(_DEPLOYMENTS_CHECK_S)

    async def _supervise(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await self._outlasting(loop)
        except Superseded as error:
            # Serve is about to stop this coordinator, as one of the previous version, or must replace it.
            _logger.warning("this coordinator stands by: %s", error)
            self._fail(error)
        except Exception as error:
            _logger.exception("a background loop of the coordinator ended")
            self._fail(error)

    async def _outlasting(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop to its end, from its beginning each time that the store was away."""
        while True:
            try:
                return await loop()
            except StoreUnavailable as error:
                _logger.warning("a loop of the coordinator begins again: %s", error)
                await asyncio.sleep(_STORE_RETRY_S)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._line.close()
        self._end_loops()

    def _end_loops(self) -> None:
        for loop in self._loops:
            loop.cancel()

    def __del__(self) -> None:
        """End the loops: Serve calls this when it stops the coordinator, and then stops the threads."""
        self._end_loops()
