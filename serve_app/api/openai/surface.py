"""The OpenAI surface: all its routes."""

from functools import cache

from fastapi import APIRouter

from serve_app.api.http.links import operation_id
from serve_app.api.openai import video_routes


@cache
def openai_surface() -> APIRouter:
    """Return the routes of videos and models."""
    surface = APIRouter(generate_unique_id_function=operation_id)
    surface.include_router(video_routes.router)
    return surface
