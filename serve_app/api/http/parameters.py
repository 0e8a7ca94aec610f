"""Parameters of routes that every surface takes: the task service, and where the API is mounted."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request

from serve_app.submission.task_service import TaskService


def provide(api: FastAPI, service: TaskService) -> None:
    """Let the routes of ``api`` have ``service`` as a parameter."""
    api.state.service = service


async def _service_of(request: Request) -> TaskService:
    service: TaskService = request.app.state.service
    return service


async def _root_path_of(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


Service = Annotated[TaskService, Depends(_service_of)]
"""The service that the API was built over."""

RootPath = Annotated[str, Depends(_root_path_of)]
"""Where the API is mounted, without a slash at its end: what links in answers begin with."""
