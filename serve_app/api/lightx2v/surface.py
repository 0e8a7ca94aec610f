"""The LightX2V surface: all its routes."""

from fastapi import APIRouter

from serve_app.api.lightx2v import local


def lightx2v_surface() -> APIRouter:
    """Return the routes of LightX2V's local API."""
    surface = APIRouter()
    surface.include_router(local.router)
    return surface
