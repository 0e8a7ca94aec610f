"""What the service says of itself: is it alive, can it take work, what does it serve."""

import asyncio
from collections.abc import Mapping
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from serve_app.api.http import api_document as openapi
from serve_app.api.http.auth import Calling
from serve_app.api.web.docs_page import root_path
from serve_app.config.model_settings import ModelSettings
from serve_app.errors import NoReplica
from serve_app.queue.snapshot import ModelLine
from serve_app.store.group_commit import draining
from serve_app.submission.task_service import TaskService
from serve_app.tasks.replica import Replica
from serve_app.tasks.transitions import Status

_FRONT_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Wan Serve</title></head>
<body><h1>Wan Serve</h1><p>Text and images to videos. See <a href="{root}/docs">docs</a>,
<a href="{root}/openapi.json">openapi.json</a> and
<a href="{root}/v1/service/metadata">what is served</a>.</p>
</body></html>
"""


def package_version() -> str:
    """The version of this package, ``0`` when it runs from a folder that is not installed."""
    try:
        return version("wan-serve")
    except PackageNotFoundError:
        return "0"


def service_router(service: TaskService) -> APIRouter:
    """The routes that are about the service and not about one task."""
    router = APIRouter(tags=["service"])

    @router.get("/v1/service/status", summary="What is going on", responses=openapi.answers(dict[str, Any]))
    async def status(caller: Calling) -> Response:
        queue = await service.view.fresh()
        counts = await service.store.counts()
        running = [task.id for task in queue.running_of(caller)]
        return JSONResponse(
            {
                "service_status": "idle" if queue.is_idle else "busy",
                "current_task": running[0] if running else None,
                "active_tasks": running,
                "pending_tasks": counts[Status.QUEUED],
                "queue_size": service.settings.limits.max_queued,
                "total_tasks": sum(counts.values()),
                "completed_tasks": counts[Status.SUCCEEDED],
                "failed_tasks": counts[Status.FAILED],
                "cancelled_tasks": counts[Status.CANCELLED],
                "models": {model.name: _line(queue.line(model.name)) for model in service.settings.models},
            }
        )

    @router.get(
        "/v1/service/metadata",
        summary="Models, defaults and limits",
        responses=openapi.answers(dict[str, Any]),
    )
    async def service_metadata() -> Response:
        # LoRAs come and go in their folders, which are looked into aside
        return JSONResponse(await asyncio.to_thread(_metadata, service))

    @router.get("/health", summary="Whether the service is alive", responses=openapi.answers(dict[str, str]))
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @router.get(
        "/ready", summary="Whether a task can run now", responses=openapi.answers(dict[str, str], 503)
    )
    async def ready() -> Response:
        if await service.store.is_draining():
            raise draining()
        from_zero = any(_least(model) == 0 for model in service.settings.models)
        if not from_zero and not await service.view.has_working_replica():
            raise NoReplica("No model replica is ready yet.")
        return JSONResponse({"status": "ready"})

    @router.get("/", include_in_schema=False)
    async def front_page(request: Request) -> Response:
        return HTMLResponse(_FRONT_PAGE.format(root=escape(root_path(request))))

    return router


def _line(line: ModelLine) -> Mapping[str, object]:
    return {
        "replicas": len(line.replicas),
        "wanted_replicas": line.scale.wanted if line.scale is not None else None,
        "queued": line.queued,
        "running": line.running,
        "seconds_per_work": line.speed.rate,
        "devices": [_device(replica) for replica in (*line.replicas, *line.others)],
    }


def _device(replica: Replica) -> Mapping[str, object]:
    device = {
        "replica": replica.replica_id,
        "device": replica.device,
        "ranks": replica.ranks,
        "health": replica.health,
    }
    return {**device, "reason": replica.reason} if replica.reason else device


def _least(model: ModelSettings) -> int:
    """Replicas that there are without a task."""
    return 1 if model.autoscaling is None else model.autoscaling.min_replicas


def _metadata(service: TaskService) -> Mapping[str, object]:
    limits = service.settings.limits
    return {
        "name": "Wan Serve",
        "version": package_version(),
        "models": [_model(model) for model in service.settings.models],
        "limits": {
            "max_queued": limits.max_queued,
            "max_image_bytes": limits.max_image_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_priority": limits.max_priority,
            "retention_s": service.settings.tasks.retention_s,
            "image_urls": service.settings.allow_image_urls,
            "image_paths": bool(service.settings.input_roots),
        },
    }


def _model(model: ModelSettings) -> Mapping[str, object]:
    variant = model.spec
    return {
        "name": model.name,
        "variant": variant.name,
        "tasks": sorted(variant.tasks),
        "distilled": variant.distilled,
        "loras": model.lora_names(),
        "example_prompts": variant.example_prompts,
        "autoscaling": None if model.autoscaling is None else model.autoscaling.model_dump(),
        "defaults": {
            "width": variant.width,
            "height": variant.height,
            "num_frames": variant.num_frames,
            "fps": variant.fps,
            "infer_steps": variant.steps,
            "guidance_scale": variant.guidance_scale,
            "guidance_scale_2": variant.guidance_scale_2,
            "flow_shift": variant.flow_shift,
            "negative_prompt": variant.negative_prompt,
        },
        "limits": {
            "max_pixels": variant.max_area,
            "max_frames": variant.max_frames,
            "size_multiple": variant.size_multiple,
        },
    }
