"""The native surface as a whole."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.http.links import operation_id
from serve_app.api.native import again_routes, event_routes, queue_routes, routes, service_routes


@cache
def native_surface() -> APIRouter:
    """Return the routes of tasks, files and the service, one router for every application."""
    surface = APIRouter(generate_unique_id_function=operation_id)
    for router in (
        queue_routes.router,
        again_routes.router,
        routes.router,
        event_routes.router,
        service_routes.router,
    ):
        surface.include_router(router)
    return surface
