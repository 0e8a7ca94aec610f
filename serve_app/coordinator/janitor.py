"""The janitor: what nobody needs any more goes, what a crash left half done is finished."""

import asyncio
import logging
import time

from serve_app.artifacts import LocalArtifacts
from serve_app.tasks.fleet import Fleet
from serve_app.tasks.journal import log_move
from serve_app.tasks.ledger import RunLedger
from serve_app.tasks.store import TaskStore
from serve_app.tasks.transitions import Status

_ORPHAN_AGE_S = 3600.0
_REPLICA_MEMORY_S = 300.0
_RECENT = 1000
_logger = logging.getLogger("ray.serve")


class Janitor:
    """Deletes ended tasks past their retention, and files that belong to no task."""

    def __init__(
        self,
        store: TaskStore,
        ledger: RunLedger,
        fleet: Fleet,
        artifacts: LocalArtifacts,
        *,
        retention_s: float,
        period_s: float,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._fleet = fleet
        self._artifacts = artifacts
        self._retention_s = retention_s
        self._period_s = period_s

    async def run(self) -> None:
        """Finish what a crash left, then sweep for ever."""
        await self._link_published()
        while True:
            await self.sweep()
            await asyncio.sleep(self._period_s)

    async def sweep(self) -> None:
        """One round: expired tasks with their files, then files without a task."""
        for task in await self._ledger.forget_ended(before=time.time() - self._retention_s):
            await asyncio.to_thread(
                self._artifacts.delete_task_files, task.uid, task.save_path, task.artifact
            )
            log_move("forget", task)
        await self._delete_orphans()
        await self._fleet.gone(unseen_for_s=_REPLICA_MEMORY_S)

    async def _delete_orphans(self) -> None:
        # Files come before their row: young ones are left alone, and they are listed before the rows are.
        uids = await asyncio.to_thread(self._artifacts.uids_with_files, older_than_s=_ORPHAN_AGE_S)
        known = await self._ledger.known_uids()
        for uid in uids:
            if uid not in known:
                await asyncio.to_thread(self._artifacts.delete_task_files, uid, None, None)

    async def _link_published(self) -> None:
        """Give the newest results their readable names: a crash after a commit can leave one without."""
        for task in reversed(await self._store.list(statuses=[Status.SUCCEEDED], limit=_RECENT)):
            if task.artifact is not None:
                try:
                    await asyncio.to_thread(self._artifacts.publish_alias, task.artifact, task.save_path)
                except OSError:
                    _logger.warning("task %s has no file under its own name", task.uid, exc_info=True)
