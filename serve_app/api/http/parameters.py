"""Route parameters shared by all surfaces: the task service and the API's root path."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request

from serve_app.submission.task_service import TaskService


def provide(api: FastAPI, service: TaskService) -> None:
    """Make ``service`` available as a parameter of the routes of ``api``."""
    api.state.service = service


async def _service_of(request: Request) -> TaskService:
    service: TaskService = request.app.state.service
    return service


async def _root_path_of(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


Service = Annotated[TaskService, Depends(_service_of)]
"""Route parameter: the task service that the API was built over."""

RootPath = Annotated[str, Depends(_root_path_of)]
"""Route parameter: the ASGI root path without a trailing slash, the prefix of links in responses."""
