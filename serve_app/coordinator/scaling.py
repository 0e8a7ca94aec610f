"""Autoscaling by work: figures for Serve's policy, and each model's ticket window."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from serve_app.config.model_settings import ModelSettings
from serve_app.coordinator.estimate import Backlog, BusyReplicas
from serve_app.scaling_policy import COORDINATOR, figures
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.leadership import Seat
from serve_app.store.workload import Workload
from serve_app.tasks.replica import Replica, Scale

_WAKE_S = 5.0
"""Seconds for the policy to scale a model up from zero; after that a ticket makes Serve start a replica."""


class Scaling:
    """Computes the autoscaling figures of models that scale by work, and the ticket window of every model."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        models: Sequence[ModelSettings],
        windows: Mapping[str, int],
        stopping: Callable[[str], Collection[str]],
        seat: Callable[[], Seat],
        *,
        seen_within_s: float,
        on_backlog: Callable[[str, float], None],
    ) -> None:
        """Create the scaling; ``stopping`` returns the ids of a model's replicas that Serve is stopping.

        Their runs end there and are no work for the replicas that stay. ``seat`` returns the coordinator's:
        while another service leads, what waits is no work for this one.
        """
        self._database = database
        self._fleet = fleet
        self._rules = {model.name: model.autoscaling for model in models if model.autoscaling is not None}
        self._by_work = [model.name for model in models if model.by_work]
        self._windows = windows
        self._stopping = stopping
        self._seat = seat
        self._seen_within_s = seen_within_s
        self._on_backlog = on_backlog
        self._busy = {name: BusyReplicas(self._rules[name].downscale_delay_s) for name in self._by_work}
        self._seen: dict[str, dict[str, float]] = {}
        self._asked_at: dict[str, float] = {}
        self._failing: set[str] = set()

    async def recall(self) -> None:
        """Load the replicas that are up from the store, after a change of leader."""
        replicas = await self._fleet.replicas(seen_within_s=self._seen_within_s)
        for replica in sorted(replicas, key=lambda each: each.seen_at):
            self.saw(replica)

    def saw(self, replica: Replica) -> bool:
        """Record a heartbeat; return True if the replica is the model's first one that takes tasks."""
        if not replica.works:
            self._seen.get(replica.model, {}).pop(replica.replica_id, None)
            return False
        is_news = not self._is_up(replica.model)
        seen = self._seen.setdefault(replica.model, {})
        seen.pop(replica.replica_id, None)
        seen[replica.replica_id] = replica.seen_at  # at the end, so that the longest unseen is the first
        return is_news

    def note(self, scale: Scale) -> None:
        """Record Serve's state of a model with autoscaling."""
        if scale.failing:
            self._failing.add(scale.model)
        else:
            self._failing.discard(scale.model)

    def window(self, model: str) -> int:
        """Return the limit of outstanding tickets of a model with queued tasks.

        A ticket for a deployment without replicas makes Serve start one replica, and no more until that one
        is up. So a model at zero gets no ticket until the policy has had time to start as many replicas as
        its work needs. A model whose replicas cannot be started gets no ticket until Serve may retry.
        """
        if model in self._failing:
            return 0
        # Serve starts replacements before stopping replicas end, and those keep their tickets until then.
        window = self._windows[model] + len(self._stopping(model))
        if model not in self._by_work or self._is_up(model):
            self._asked_at.pop(model, None)
            return window
        asked_at = self._asked_at.setdefault(model, time.monotonic())
        return window if time.monotonic() - asked_at > _WAKE_S else 0

    async def figures(self) -> Mapping[str, float]:
        """Return the figures for the autoscaling policy. Call at even intervals, as Serve does."""
        rates = await self._fleet.rates()
        report = {**figures(COORDINATOR, 1, 1)}  # never empty: the policy takes an empty report for none
        for name in self._by_work:
            backlog, runs_s = await self._backlog(name, rates.get(name))
            self._busy[name].sample(time.monotonic(), runs_s)
            self._on_backlog(name, backlog.seconds)
            need = backlog.needed(self._rules[name].target_queue_wait_s)
            report |= figures(deployment_of(name), need, self._busy[name].kept)
        for name in self._failing:
            # Serve gives up on a deployment after several failures; a target of zero resets its count.
            report |= figures(deployment_of(name), 0, 0)
        return report

    async def _backlog(self, name: str, rate: float | None) -> tuple[Backlog, Sequence[float]]:
        """Return the model's backlog, and the expected total seconds of each run.

        Before a rate is measured, each task counts for the target queue wait.
        """
        longest_s = self._rules[name].target_queue_wait_s
        cap = longest_s / rate if rate else math.inf
        work = await Workload.of(
            self._database, name, cap=cap, seat=self._seat(), stopping=self._stopping(name)
        )
        if rate:
            left_s = tuple(left * rate for left in work.left_work)
            backlog = Backlog(work.queued, work.queued_work * rate, work.capped_work * rate, left_s)
            return backlog, [whole * rate for whole in work.running_work]
        queued_s, runs_s = work.queued * longest_s, (longest_s,) * len(work.running_work)
        return Backlog(work.queued, queued_s, queued_s, runs_s), runs_s

    def _is_up(self, model: str) -> bool:
        """Forget the model's replicas that were not seen for too long; return whether any is left."""
        fresh = time.time() - self._seen_within_s
        seen = self._seen.get(model, {})
        while seen and seen[first := next(iter(seen))] < fresh:
            del seen[first]
        return bool(seen)


def deployment_of(model: str) -> str:
    """Return the name of a model's deployment."""
    return f"model-{model}"
