"""The autoscaling policy of the application: replicas of each model, by the coordinator's figures.

Ray Serve runs it in its controller many times a second, over a copy of this module that it takes with it.
So it imports nothing, waits for nothing and keeps nothing. Bounds and delays are applied by Serve, to what
it decides here.
"""

from collections.abc import Mapping
from typing import Any

COORDINATOR = "coordinator"
"""Name of the deployment whose figures decide."""


def figures(deployment: str, need: int, keep: int) -> Mapping[str, float]:
    """What the coordinator says of a model's deployment, as numbers by name, as Serve carries them."""
    return {f"need {deployment}": need, f"keep {deployment}": keep}


def policy(contexts: Mapping[Any, Any]) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
    """Wanted replicas by deployment, given Serve's ``AutoscalingContext`` of each; and no state.

    A model of which the coordinator says nothing scales by its requests. While the coordinator itself is
    silent, nothing is changed.
    """
    told = [_newest(context) for context in contexts.values() if context.deployment_name == COORDINATOR]
    if told and not told[0]:
        return {}, {}
    said = told[0] if told else {}
    wanted = {
        deployment: _wanted(context, said)
        for deployment, context in contexts.items()
        if context.deployment_name != COORDINATOR
    }
    return wanted, {}


def _wanted(context: Any, said: Mapping[str, float]) -> float:
    need = said.get(f"need {context.deployment_name}")
    if need is None:
        return _by_requests(context)
    # What is kept is never a reason to start another: it only holds on to replicas that are there.
    keep = said.get(f"keep {context.deployment_name}", 0)
    return max(need, min(keep, float(context.target_num_replicas)))


def _by_requests(context: Any) -> float:
    """As Serve's own policy has it: so many replicas that each has its target of requests."""
    if context.current_num_replicas == 0:
        return float(context.target_num_replicas)
    return float(context.total_num_requests / context.config.target_ongoing_requests)


def _newest(context: Any) -> Mapping[str, float]:
    """The coordinator's last figures; empty while none has come from a running replica of it."""
    return {
        name: points[-1].value
        for name, by_replica in context.raw_metrics.items()
        for points in by_replica.values()
        if points and name.startswith(("need ", "keep "))
    }
