"""Applications that ours is measured beside: its native surface alone, a bare echo, and one that idles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from serve_app.api.application import Surface
from serve_app.api.ingress import API
from serve_app.api.native.surface import native_surface
from serve_app.app import bound
from serve_app.config.settings import parse_settings

_SMALL = {"num_cpus": 0.1}
NATIVE_ALONE: Sequence[Surface] = (native_surface,)


def native_alone(args: dict[str, object]) -> Application:
    """Build the service as ``serve_app.app`` does, with its native surface alone."""
    return bound(parse_settings(args, Path.cwd()), f"{__name__}:NATIVE_ALONE")


def echo(_args: dict[str, object]) -> Application:
    """Build an application that answers with the JSON that it was sent, with the options of our ingress."""
    deployment = serve.deployment(
        name=API,
        max_ongoing_requests=4096,
        ray_actor_options=_SMALL,
        logging_config=LoggingConfig(enable_access_log=False),
    )(serve.ingress(bare_echo)(_Echo))
    return deployment.bind()


def idle(args: dict[str, Any]) -> Application:
    """Build an application of as many replicas as ours has with one model, which do nothing at all."""
    others = [serve.deployment(name=f"idle-{number}", ray_actor_options=_SMALL)(_Idle) for number in (1, 2)]
    deployment = serve.deployment(
        name=API,
        num_replicas=args["ingress_replicas"],
        ray_actor_options=_SMALL,
        logging_config=LoggingConfig(enable_access_log=False),
    )(serve.ingress(bare_echo)(_Echo))
    return deployment.bind(*(other.bind() for other in others))


def bare_echo() -> FastAPI:
    """Build the FastAPI application of the echo."""
    api = FastAPI()

    @api.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @api.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    return api


class _Echo:
    """The replica of the echo, which has nothing beside its routes."""

    def __init__(self, *_others: DeploymentHandle[Any]) -> None:
        pass


class _Idle:
    """A replica that is asked nothing."""
