"""Heartbeats of replicas and rates of finished runs, gathered here and stored once a second."""

import statistics

from serve_app.store.fleet import Fleet
from serve_app.tasks.replica import Replica


class Heartbeats:
    """A write buffer. A crash may lose what it holds: the next heartbeats and runs bring it again."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[str, Replica] = {}
        self._learnt: dict[tuple[str, int], list[float]] = {}

    def saw(self, replica: Replica) -> None:
        """Keep a replica's heartbeat until the next ``write``."""
        self._seen[replica.replica_id] = replica

    def learn(self, model: str, tokens: int, seconds_per_work: float) -> None:
        """Keep the rate of a finished run of ``model``, on a video of ``tokens`` DiT tokens."""
        self._learnt.setdefault((model, tokens), []).append(seconds_per_work)

    async def write(self) -> None:
        """Store what came since the last ``write``."""
        seen, self._seen = self._seen, {}
        learnt, self._learnt = self._learnt, {}
        if seen:
            await self._fleet.saw(*seen.values())
        for (model, tokens), rates in learnt.items():
            await self._fleet.learn(model, statistics.fmean(rates), tokens)
