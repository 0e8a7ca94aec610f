"""The application's autoscaling policy: the number of replicas of each model, from the coordinator's figures.

Ray Serve's controller runs the policy many times a second, from a pickled copy of this module. So the module
imports nothing of the service, does not block and keeps no state. Serve applies bounds and delays to the
result.
"""

from collections.abc import Mapping
from typing import Any

COORDINATOR = "coordinator"
"""Name of the deployment that reports the figures."""


def figures(deployment: str, need: int, keep: int) -> Mapping[str, float]:
    """Return the coordinator's figures for a deployment by name, the format that Serve records."""
    return {f"need {deployment}": need, f"keep {deployment}": keep}


def policy(contexts: Mapping[Any, Any]) -> tuple[dict[Any, float], dict[Any, dict[str, Any]]]:
    """Return the target number of replicas by deployment, and no policy state.

    ``contexts``: Serve's ``AutoscalingContext`` of each deployment.

    A model without figures from the coordinator scales by its requests. While the coordinator reports no
    figures at all, no deployment is changed.
    """
    reports = [_latest(context) for context in contexts.values() if context.deployment_name == COORDINATOR]
    if reports and not reports[0]:
        return {}, {}
    report = reports[0] if reports else {}
    wanted = {
        deployment: _wanted(context, report)
        for deployment, context in contexts.items()
        if context.deployment_name != COORDINATOR
    }
    return wanted, {}


def _wanted(context: Any, report: Mapping[str, float]) -> float:
    need = report.get(f"need {context.deployment_name}")
    if need is None:
        return _by_requests(context)
    # "keep" only prevents a downscale: it never starts a replica.
    keep = report.get(f"keep {context.deployment_name}", 0)
    return max(need, min(keep, float(context.target_num_replicas)))


def _by_requests(context: Any) -> float:
    """Scale by requests, as Serve's default policy does: total requests over the target for each replica."""
    if context.current_num_replicas == 0:
        return float(context.target_num_replicas)
    return float(context.total_num_requests / context.config.target_ongoing_requests)


def _latest(context: Any) -> Mapping[str, float]:
    """Return the coordinator's latest figures; empty before a running coordinator has reported any."""
    return {
        name: points[-1].value
        for name, by_replica in context.raw_metrics.items()
        for points in by_replica.values()
        if points and name.startswith(("need ", "keep "))
    }
