"""The watch: sets the gauges that operators look at, every few seconds."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path

from serve_app.metrics import ServiceMetrics
from serve_app.store.fleet import Fleet
from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.replica import Health, Replica

_PERIOD_S = 5.0
"""Ray exports what was set last, once in ten seconds."""


class Watch:
    """Looks at the store and the disks for the coordinator that leads."""

    def __init__(
        self,
        metrics: ServiceMetrics,
        ledger: RunLedger,
        fleet: Fleet,
        measure_outgoing: Callable[[ServiceMetrics], Awaitable[None]],
        folders: Mapping[str, Path],
        health: Callable[[Replica], Health],
        *,
        seen_within_s: float,
    ) -> None:
        """``folders``: those whose disks are watched, by their settings; ``health``: as Serve has it.

        ``measure_outgoing`` sets the gauges of what is to be sent to clients.
        """
        self._metrics = metrics
        self._ledger = ledger
        self._fleet = fleet
        self._measure_outgoing = measure_outgoing
        self._folders = folders
        self._health = health
        self._seen_within_s = seen_within_s

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_PERIOD_S)

    async def look(self) -> None:
        """Set every gauge once."""
        demand = await self._ledger.demand()
        now = time.time()
        oldest_s = {model: max(0.0, now - at) for model, at in demand.oldest.items()}
        running = {model: len(uids) for model, uids in demand.running.items()}
        if self._ledger.seat.leads:
            self._metrics.queue(demand.queued, demand.ready, oldest_s, running)
            replicas = await self._fleet.replicas(seen_within_s=self._seen_within_s)
            self._metrics.fleet([self._told(each, demand.runners) for each in replicas])
            await self._measure_outgoing(self._metrics)
            self._metrics.leads(self._ledger.epoch)
        else:  # of two services one tells what is in the database
            self._metrics.queue({}, {}, {}, running)
            self._metrics.fleet([])
            self._metrics.to_send(messages=0, videos=0)
        for setting, folder in self._folders.items():
            self._metrics.disk(setting, (await asyncio.to_thread(shutil.disk_usage, folder)).free)

    def _told(self, replica: Replica, runners: Set[str]) -> Replica:
        """Return a replica as ``/v1/service/status`` has it: one with a task says no more than READY."""
        health = self._health(replica)
        if health is Health.READY and replica.replica_id in runners:
            health = Health.BUSY
        return replace(replica, health=health)
