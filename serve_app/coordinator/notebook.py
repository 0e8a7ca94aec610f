"""What is heard of replicas and learnt of rates, written down once a second and not each by itself."""

import statistics

from serve_app.store.fleet import Fleet
from serve_app.tasks.task import Replica


class Notebook:
    """Nothing in it is missed if it is lost: the next heartbeats and runs say it again."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._seen: dict[str, Replica] = {}
        self._learnt: dict[tuple[str, int], list[float]] = {}

    def saw(self, replica: Replica) -> None:
        """A replica is up."""
        self._seen[replica.replica_id] = replica

    def learn(self, model: str, tokens: int, seconds_per_work: float) -> None:
        """A run of the model has ended, on a video of so many tokens."""
        self._learnt.setdefault((model, tokens), []).append(seconds_per_work)

    async def write(self) -> None:
        """Store what is new."""
        seen, self._seen = self._seen, {}
        learnt, self._learnt = self._learnt, {}
        if seen:
            await self._fleet.saw(*seen.values())
        for (model, tokens), rates in learnt.items():
            await self._fleet.learn(model, statistics.fmean(rates), tokens)
