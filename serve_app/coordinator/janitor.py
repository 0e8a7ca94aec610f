"""The janitor: retention of ended tasks, deletion of orphaned files, and repair after a crash."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from serve_app.config.settings import AppSettings
from serve_app.errors import ServiceError
from serve_app.files.artifacts import Artifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.move_log import log_move
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.video_output import VideoFormat

_REPLICA_RETENTION_S = 300.0
"""Minimum seconds that a replica without heartbeats stays in the store."""
_RECENT = 1000
_logger = logging.getLogger("ray.serve")


class Janitor:
    """Deletes ended tasks past their retention, and orphaned files."""

    def __init__(
        self,
        settings: AppSettings,
        database: Database,
        ledger: RunLedger,
        fleet: Fleet,
        artifacts: Artifacts,
        forget_deliveries: Callable[[], Awaitable[None]],
    ) -> None:
        """``forget_deliveries`` deletes messages and uploads of tasks that are no longer stored."""
        self._store = TaskStore(database)
        self._ledger = ledger
        self._forget_deliveries = forget_deliveries
        self._fleet = fleet
        self._artifacts = artifacts
        self._paths = OutputPaths(settings.outputs, settings.output_roots)
        self._retention_s = settings.tasks.retention_s
        self._replica_retention_s = max(_REPLICA_RETENTION_S, settings.tasks.silence_s)
        self._period_s = settings.tasks.janitor_period_s
        self._previous_orphans: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Link published videos that a crash left without a public name, then sweep until cancelled."""
        await self._link_published()
        while True:
            await self.sweep()
            await asyncio.sleep(self._period_s)

    async def sweep(self) -> None:
        """Delete expired tasks with files and messages, then files of unknown tasks, the checkpoints of those
        that have ended, and silent replicas.

        That is the leader's: does nothing while another service leads.
        """
        if not self._ledger.seat.leads:
            return
        for task in await self._ledger.forget_ended(before=time.time() - self._retention_s):
            await asyncio.to_thread(self._delete_files, task)
            log_move("forget", task)
        await self._forget_deliveries()
        await self._delete_orphans()
        await self._delete_checkpoints()
        await self._fleet.gone(unseen_for_s=self._replica_retention_s)

    async def _delete_orphans(self) -> None:
        # A task's files are written before its row; files without a row in two sweeps are orphans.
        with_files = await asyncio.to_thread(lambda: frozenset(self._artifacts.task_ids_with_files()))
        orphans = with_files - await self._ledger.known_uids()
        for uid in orphans & self._previous_orphans:
            await asyncio.to_thread(self._artifacts.delete_task_files, uid, None, None)
        self._previous_orphans = orphans

    async def _delete_checkpoints(self) -> None:
        """Delete the checkpoints of tasks that have ended without their runner, such as cancelled ones."""
        kept = await asyncio.to_thread(self._artifacts.task_ids_with_checkpoints)
        if kept:
            for uid in frozenset(kept) - await self._ledger.unended_uids():
                await asyncio.to_thread(self._artifacts.delete_checkpoints, uid)

    def _delete_files(self, task: Task) -> None:
        place = self._paths.place_of(task.save_path)
        self._artifacts.delete_task_files(task.uid, place, task.artifact)

    async def _link_published(self) -> None:
        """Link the newest videos to their public names: a crash after a commit can leave one without."""
        for task in reversed(await self._store.list(EVERYONE, statuses=[Status.SUCCEEDED], limit=_RECENT)):
            await asyncio.to_thread(self.link, task)

    def link(self, task: Task) -> None:
        """Link the committed video of ``task`` to its public name. Idempotent; a failure is only logged."""
        if task.artifact is None:
            return
        form = VideoFormat.of_file(task.artifact) or VideoFormat.MP4
        try:
            self._artifacts.publish_alias(task.artifact, self._paths.resolve(task.save_path, form=form))
        except (OSError, ServiceError):
            # The video is still available through its task.
            _logger.warning("the video of task %s has no file of its own name", task.uid, exc_info=True)
