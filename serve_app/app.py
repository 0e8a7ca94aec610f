"""The application builder that ``serve_config.yaml`` names: settings in, Serve deployments out."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from serve_app.api.ingress import SURFACES, ingress
from serve_app.api.native.task_document import message_document
from serve_app.config.model_settings import AutoscalingSettings, ModelSettings
from serve_app.config.placement import Placement, place
from serve_app.config.settings import AppSettings, parse_settings
from serve_app.coordinator.coordinator import Coordinator
from serve_app.coordinator.scaling import deployment_of
from serve_app.replica.model_replica import ModelReplica
from serve_app.scaling_policy import COORDINATOR

_METRICS_INTERVAL_S = 1.0
"""Interval at which Serve collects autoscaling metrics: the coordinator's figures and the request counts."""
_COORDINATOR_ANSWERS_WITHIN_S = 8
"""Serve gives 30 s by itself, and then 90 s pass until a coordinator that is stuck is replaced."""


def build(args: dict[str, object]) -> Application:
    """Bind the ingress, the coordinator and one deployment for each model.

    Raises ``SettingsError``; Serve shows its message as the reason why the deploy failed, and a version that
    is already running keeps serving.
    """
    return bound(parse_settings(args, Path.cwd()))


def bound(settings: AppSettings, surfaces: str = SURFACES) -> Application:
    """Bind what a service with these settings is made of; ``surfaces``: as for ``ingress``."""
    placements = place(settings.models, ray.cluster_resources(), settings.max_gpus)
    settings = settings.with_most({name: placed.replicas for name, placed in placements.items()})
    models = {model.name: _model(settings, model, placements[model.name]) for model in settings.models}
    windows = {name: placed.replicas for name, placed in placements.items()}
    return ingress(settings, coordinator(settings, models, windows), surfaces)


def coordinator(
    settings: AppSettings, models: dict[str, Application], windows: dict[str, int]
) -> Application:
    """Bind the coordinator of these models' deployments.

    ``windows``: the number of tasks that each model can run at once.
    """
    deployment = serve.deployment(
        name=COORDINATOR,
        # Serve collects autoscaling metrics only from autoscaled deployments, hence the range of 1 to 1.
        **(
            {"autoscaling_config": _autoscaling(1, 1)}
            if any(model.autoscaling for model in settings.models)
            else {"num_replicas": 1}
        ),
        # Every model replica and ingress replica calls; none of these calls waits for a run.
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=5,
        # A coordinator that lost the lead fails its health check; no task starts until it is replaced.
        health_check_period_s=1,
        # One that does not answer is replaced after three of these. A process that is frozen, or a node that
        # is gone without a word, can block it: Ray waits for whom it answers.
        health_check_timeout_s=_COORDINATOR_ANSWERS_WITHIN_S,
        logging_config=_quiet(settings),
    )(Coordinator)
    describe = partial(message_document, root_path=settings.webhooks.public_url.rstrip("/"))
    return deployment.bind(settings, models, windows, describe=describe)


def _model(settings: AppSettings, model: ModelSettings, placement: Placement) -> Application:
    deployment = serve.deployment(
        name=deployment_of(model.name),
        **_replicas(model.autoscaling, placement),
        max_ongoing_requests=1,
        **_resources(placement),
        # A stopping replica finishes its video first.
        graceful_shutdown_timeout_s=settings.tasks.longest_run_s,
        health_check_period_s=5,
        logging_config=_quiet(settings),
    )(ModelReplica)
    return deployment.bind(settings, model, placement, coordinator=COORDINATOR)


def _quiet(settings: AppSettings) -> LoggingConfig:
    # Serve would log every call of a replica, several a second; the log of moves holds the ones that matter.
    return LoggingConfig(enable_access_log=False, encoding=settings.log_format.upper())


def _resources(placement: Placement) -> dict[str, Any]:
    """Return the resources that Ray reserves for a replica; a group gets a placement group, with all bundles
    on one node, or one bundle on each of its nodes.
    """
    cpus, gpus = placement.cpus, placement.gpus
    if placement.ranks == 1:
        return {"ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus}}
    return {
        # The replica drives its ranks and encodes their videos; it uses no device itself.
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": 0},
        "placement_group_bundles": placement.bundles,
        "placement_group_strategy": placement.strategy,
    }


def _replicas(rules: AutoscalingSettings | None, placement: Placement) -> dict[str, Any]:
    """Return the deployment options that set the number of replicas: fixed or autoscaled."""
    if rules is None:
        return {"num_replicas": placement.replicas}
    scaling = _autoscaling(
        rules.min_replicas,
        placement.replicas,
        upscale_delay_s=rules.upscale_delay_s,
        downscale_delay_s=rules.downscale_delay_s,
        downscale_to_zero_delay_s=rules.downscale_to_zero_delay_s,
        # The averaging window of request counts is no longer than the delay before an upscale.
        look_back_period_s=max(2 * _METRICS_INTERVAL_S, min(30.0, rules.upscale_delay_s)),
    )
    return {"autoscaling_config": scaling}


def _autoscaling(least: int, most: int, **options: Any) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # Ray deprecates this option for environment variables that have no effect yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=least,
            max_replicas=most,
            # A replica runs one task at a time.
            target_ongoing_requests=1,
            metrics_interval_s=_METRICS_INTERVAL_S,
            **{"look_back_period_s": 2 * _METRICS_INTERVAL_S, **options},
        )
