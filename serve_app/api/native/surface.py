"""The native surface as a whole."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.native import (
    again_routes,
    event_routes,
    queue_routes,
    routes,
    service_routes,
    settings_routes,
)


@cache
def native_surface() -> APIRouter:
    """Return the routes of tasks, files and the service, one router for every application."""
    # Their routes themselves: those of a router that is included are all built again, at the first request.
    modules = (queue_routes, again_routes, routes, settings_routes, event_routes, service_routes)
    return APIRouter(routes=[route for module in modules for route in module.router.routes])
