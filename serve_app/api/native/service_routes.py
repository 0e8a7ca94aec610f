"""The native surface's routes of the service: liveness, readiness, status and metadata."""

import asyncio

from starlette.responses import Response

from serve_app.api.http.api_document import answers
from serve_app.api.http.auth import Calling
from serve_app.api.http.examples import curl
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import Service
from serve_app.api.http.served_route import served_router
from serve_app.api.native.service_document import (
    HealthDocument,
    MetadataDocument,
    ReadyDocument,
    ServiceStatusDocument,
    metadata_document,
    status_document,
)
from serve_app.package_version import package_version

router = served_router(tags=["service"])


@router.get(
    "/v1/service/status",
    summary="What is going on",
    responses=answers(ServiceStatusDocument),
    openapi_extra=curl("/v1/service/status"),
)
async def service_status(service: Service, caller: Calling) -> Response:
    """Answer with the running tasks, counts, and each model's replicas."""
    queue, counts = await service.queue_now(), await service.counts()
    return JsonAnswer(status_document(service.offer, queue, counts, caller))


@router.get(
    "/v1/service/metadata",
    summary="Models, defaults and limits",
    responses=answers(MetadataDocument),
    openapi_extra=curl("/v1/service/metadata"),
)
async def service_metadata(service: Service) -> Response:
    """Answer with what is served, including the LoRAs that lie in their folders now."""
    return JsonAnswer(await asyncio.to_thread(metadata_document, service.offer, package_version()))


@router.get("/health", summary="Whether the service is alive", responses=answers(HealthDocument))
async def health() -> Response:
    """Answer 200 while the process runs."""
    alive: HealthDocument = {"status": "ok"}
    return JsonAnswer(alive)


@router.get("/ready", summary="Whether a task can run now", responses=answers(ReadyDocument, 503))
async def ready(service: Service) -> Response:
    """Answer 200 while a replica can take work, or a model scales from zero."""
    await service.require_ready()
    is_ready: ReadyDocument = {"status": "ready"}
    return JsonAnswer(is_ready)
