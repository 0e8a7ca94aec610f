"""The LightX2V surface: all its routes."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.lightx2v import local


@cache
def lightx2v_surface() -> APIRouter:
    """Return the routes of LightX2V's local API, one router for every application."""
    surface = APIRouter()
    surface.include_router(local.router)
    return surface
