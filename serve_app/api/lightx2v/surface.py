"""The LightX2V surface: all its routes."""

from functools import cache

from fastapi import APIRouter
from fastapi.routing import APIRoute

from serve_app.api.http.served_route import served_router
from serve_app.api.lightx2v import local, task_routes


@cache
def lightx2v_surface() -> APIRouter:
    """Return the routes of LightX2V's server below the prefix, and of its local API without it too.

    It is one router for every application.
    """
    return APIRouter(routes=[*local.router.routes, *_below(local.router).routes, *task_routes.router.routes])


def _below(router: APIRouter) -> APIRouter:
    """Return the same routes below the prefix."""
    below = served_router(prefix=task_routes.PREFIX)
    for route in router.routes:
        assert isinstance(route, APIRoute)
        below.add_api_route(
            route.path,
            route.endpoint,
            methods=list(route.methods or ()),
            tags=route.tags,
            summary=route.summary,
            responses=route.responses,
            openapi_extra=route.openapi_extra,
        )
    return below
