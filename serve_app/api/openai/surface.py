"""The OpenAI surface: all its routes."""

from fastapi import APIRouter

from serve_app.api.openai import video_routes


def openai_surface() -> APIRouter:
    """Return the routes of videos and models."""
    return video_routes.router
