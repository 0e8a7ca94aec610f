"""Scaling by work: what Serve's policy is told of each model, and when tickets go out to a model at zero."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from serve_app.config.model_settings import ModelSettings
from serve_app.coordinator.estimate import Backlog, BusyReplicas
from serve_app.scaling_policy import COORDINATOR, figures
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.workload import Workload
from serve_app.tasks.replica import Replica, Scale

_WAKE_S = 5.0
"""Time in which the policy may wake a model at zero. After that a ticket wakes it in any case."""


class Scaling:
    """Sees every replica and every look at the queue of the models that scale by work."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        models: Sequence[ModelSettings],
        windows: Mapping[str, int],
        stopping: Callable[[str], Collection[str]],
        *,
        seen_within_s: float,
        on_backlog: Callable[[str, float], None],
    ) -> None:
        """``stopping`` names the replicas of a model that Serve stops. What runs there is cut off by nobody,
        and it is no work for those that stay.
        """
        self._database = database
        self._fleet = fleet
        self._rules = {model.name: model.autoscaling for model in models if model.autoscaling is not None}
        self._by_work = [model.name for model in models if model.by_work]
        self._windows = windows
        self._stopping = stopping
        self._seen_within_s = seen_within_s
        self._on_backlog = on_backlog
        self._busy = {name: BusyReplicas(self._rules[name].downscale_delay_s) for name in self._by_work}
        self._seen: dict[str, dict[str, float]] = {}
        self._asked_at: dict[str, float] = {}
        self._failing: set[str] = set()

    async def recall(self) -> None:
        """Learn from the store which replicas are up, after another coordinator."""
        for replica in await self._fleet.replicas(seen_within_s=self._seen_within_s):
            self.saw(replica)

    def saw(self, replica: Replica) -> bool:
        """Note how a replica is; whether it takes tasks and is the model's only one that does."""
        if not replica.works:
            self._seen.get(replica.model, {}).pop(replica.replica_id, None)
            return False
        seen = self._seen.setdefault(replica.model, {})
        for replica_id in [each for each, at in seen.items() if at < time.time() - self._seen_within_s]:
            del seen[replica_id]
        is_news = not seen
        seen[replica.replica_id] = replica.seen_at
        return is_news

    def note(self, scale: Scale) -> None:
        """Note what Serve says of a model that scales."""
        if scale.failing:
            self._failing.add(scale.model)
        else:
            self._failing.discard(scale.model)

    def window(self, model: str) -> int:
        """Tickets that may be out for a model with queued tasks.

        A ticket in the queue of a deployment without replicas makes Serve start one, and only one until
        that is up. So a model at zero gets no ticket until the policy has had its time to start as many as
        there is work for. One whose replicas cannot be started gets none until Serve may try again.
        """
        if model in self._failing:
            return 0
        # Serve puts others beside those that it stops, whose tickets come back when their runs have ended.
        window = self._windows[model] + len(self._stopping(model))
        if model not in self._by_work or self._is_up(model):
            self._asked_at.pop(model, None)
            return window
        asked_at = self._asked_at.setdefault(model, time.monotonic())
        return window if time.monotonic() - asked_at > _WAKE_S else 0

    async def figures(self) -> Mapping[str, float]:
        """The figures that the policy decides by. To be asked for at even intervals, as Serve does."""
        rates = await self._fleet.rates()
        said = {**figures(COORDINATOR, 1, 1)}  # so that it is never nothing, which would mean silence
        for name in self._by_work:
            backlog, runs_s = await self._backlog(name, rates.get(name))
            self._busy[name].see(time.monotonic(), runs_s)
            self._on_backlog(name, backlog.seconds)
            need = backlog.needed(self._rules[name].target_queue_wait_s)
            said |= figures(deployment_of(name), need, self._busy[name].kept)
        for name in self._failing:
            # Serve gives a deployment up after some failures. With none wanted it starts counting anew.
            said |= figures(deployment_of(name), 0, 0)
        return said

    async def _backlog(self, name: str, rate: float | None) -> tuple[Backlog, Sequence[float]]:
        """The model's backlog, and the seconds that each run takes as a whole.

        Before a rate is measured, each task counts for the longest wait that is wanted.
        """
        longest_s = self._rules[name].target_queue_wait_s
        cap = longest_s / rate if rate else math.inf
        work = await Workload.of(self._database, name, cap=cap, stopping=self._stopping(name))
        if rate:
            left_s = tuple(left * rate for left in work.left_work)
            backlog = Backlog(work.queued, work.queued_work * rate, work.capped_work * rate, left_s)
            return backlog, [whole * rate for whole in work.running_work]
        queued_s, runs_s = work.queued * longest_s, (longest_s,) * len(work.running_work)
        return Backlog(work.queued, queued_s, queued_s, runs_s), runs_s

    def _is_up(self, model: str) -> bool:
        fresh = time.time() - self._seen_within_s
        return any(at >= fresh for at in self._seen.get(model, {}).values())


def deployment_of(model: str) -> str:
    """The name of a model's deployment."""
    return f"model-{model}"
