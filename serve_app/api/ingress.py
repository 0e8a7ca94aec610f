"""The ingress deployment: replicas of the HTTP service that share nothing but the task store."""

import asyncio
import importlib
import logging
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from serve_app.config.settings import AppSettings
from serve_app.files.audit_log import AuditLog
from serve_app.metrics import StoreMetrics, StreamMetrics, TaskMetrics
from serve_app.node_port import keep_to_node
from serve_app.tasks.acts import NO_ACTS
from serve_app.tasks.move_log import structure_logs
from serve_app.tracing.tracer import tracer_of

API = "api"
"""Name of the deployment."""

SURFACES = "serve_app.api.application:SURFACES"
"""Import path of the surfaces that are served."""

_logger = logging.getLogger("ray.serve")

_NUDGE_PAUSE_S = 0.05
"""Pause between two nudges: under load a handful does as well as one for each submit, and costs less."""


@serve.ingress()
class Ingress:
    """A copy of the HTTP service, built from the settings bound at deploy time."""

    def __init__(self, settings: AppSettings, coordinator: DeploymentHandle[Any], surfaces: str) -> None:
        keep_to_node()
        self._settings = settings
        self._coordinator = coordinator
        self._surfaces = surfaces
        self._nudging: asyncio.Task[None] | None = None
        self._nudge_again = False
        self._streams = StreamMetrics()

    async def check_health(self) -> None:
        """Keep the metric of event streams exported; Serve calls this method every second."""
        self._streams.refresh()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the HTTP service; Ray Serve calls this method in each new replica."""
        # Whoever deploys imports this file too, but needs none of the routes.
        from serve_app.api.application import build_api

        settings = self._settings
        module, _, name = self._surfaces.partition(":")
        if settings.log_format == "json":
            structure_logs()
        tasks = TaskMetrics([model.name for model in settings.models], settings.told_apart)
        return build_api(
            settings,
            self._nudge,
            tasks.ended,
            getattr(importlib.import_module(module), name),
            on_streams=self._streams.open,
            on_transaction=StoreMetrics(API).took,
            tracer=tracer_of(settings.tracing, API),
            acts=NO_ACTS if settings.audit is None else AuditLog(settings.audit),
        )

    def _nudge(self) -> None:
        """Nudge the coordinator without waiting: one call at a time, and one more for all meanwhile."""
        if self._nudging is None or self._nudging.done():
            self._nudging = asyncio.get_running_loop().create_task(self._send_nudges())
        else:
            self._nudge_again = True

    async def _send_nudges(self) -> None:
        while True:
            self._nudge_again = False
            try:
                await self._coordinator.nudge.remote()
            except Exception:
                # The coordinator also looks by itself, and a new one looks first of all.
                _logger.debug("The coordinator was not nudged", exc_info=True)
                return
            await asyncio.sleep(_NUDGE_PAUSE_S)
            if not self._nudge_again:
                return


def ingress(settings: AppSettings, coordinator: Application, surfaces: str = SURFACES) -> Application:
    """Bind the application's entry: ``settings.ingress_replicas`` copies of the HTTP service.

    ``surfaces``: the import path, as ``module:name``, of what it serves.
    """
    deployment = serve.deployment(
        name=API,
        num_replicas=settings.ingress_replicas,
        # Streams and waits are open for long and cost little; HAProxy takes as many connections.
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=10,
        health_check_period_s=1,  # by which Serve also learns that one was killed
        logging_config=LoggingConfig(
            enable_access_log=settings.access_log, encoding=settings.log_format.upper()
        ),
    )(Ingress)
    return deployment.bind(settings, coordinator, surfaces)
