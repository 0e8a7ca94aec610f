"""The LightX2V surface: all its routes."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.lightx2v import local, task_routes


@cache
def lightx2v_surface() -> APIRouter:
    """Return the routes of LightX2V's server below the prefix, and of its local API without it too.

    It is one router for every application.
    """
    below = APIRouter()
    below.include_router(local.router, prefix=task_routes.PREFIX)
    return APIRouter(routes=[*local.router.routes, *below.routes, *task_routes.router.routes])
