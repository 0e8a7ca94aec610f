"""The LightX2V surface: all its routes."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.http.links import operation_id
from serve_app.api.lightx2v import local, task_routes

PREFIX = "/lightx2v"
"""Base URL for LightX2V's clients: its task API has the native API's paths, and other words."""


@cache
def lightx2v_surface() -> APIRouter:
    """Return the routes of LightX2V's server below the prefix, and of its local API without it too.

    It is one router for every application.
    """
    surface = APIRouter(generate_unique_id_function=operation_id)
    surface.include_router(local.router)
    surface.include_router(local.router, prefix=PREFIX)
    surface.include_router(task_routes.router, prefix=PREFIX)
    return surface
