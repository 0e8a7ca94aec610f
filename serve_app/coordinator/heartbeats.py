"""A write buffer of replicas' heartbeats and of finished runs' rates, flushed once a second."""

import statistics

from serve_app.store.fleet import Fleet
from serve_app.tasks.replica import Replica


class Heartbeats:
    """Buffers heartbeats and rates; a crash may lose them, and later heartbeats and runs replace them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[str, Replica] = {}
        self._learnt: dict[tuple[str, int], list[float]] = {}

    def saw(self, replica: Replica) -> None:
        """Buffer a replica's heartbeat until the next ``write``."""
        self._seen[replica.replica_id] = replica

    def learn(self, model: str, tokens: int, seconds_per_work: float) -> None:
        """Buffer the rate of a finished run of ``model`` for a video of ``tokens`` DiT tokens."""
        self._learnt.setdefault((model, tokens), []).append(seconds_per_work)

    async def write(self) -> None:
        """Flush the buffer to the store."""
        seen, self._seen = self._seen, {}
        learnt, self._learnt = self._learnt, {}
        if seen:
            await self._fleet.saw(*seen.values())
        for (model, tokens), rates in learnt.items():
            await self._fleet.learn(model, statistics.fmean(rates), tokens)
