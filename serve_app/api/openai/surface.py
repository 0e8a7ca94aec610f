"""The OpenAI surface: all its routes."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.openai import video_routes


@cache
def openai_surface() -> APIRouter:
    """Return the routes of videos and models."""
    surface = APIRouter()
    surface.include_router(video_routes.router)
    return surface
