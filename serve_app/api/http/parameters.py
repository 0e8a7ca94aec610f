"""Route parameters shared by all surfaces: the task service and the API's root path."""

from typing import Annotated

from fastapi import Depends, FastAPI, Path, Request

from serve_app.api.http.event_stream import EventStreams
from serve_app.submission.task_id import TASK_ID_PATTERN
from serve_app.submission.task_service import TaskService


def provide(api: FastAPI, service: TaskService, streams: EventStreams, *, is_keyed: bool) -> None:
    """Make these available as parameters of the routes of ``api``; ``is_keyed``: whether it has API keys."""
    api.state.service = service
    api.state.streams = streams
    api.state.is_keyed = is_keyed


async def _service_of(request: Request) -> TaskService:
    service: TaskService = request.app.state.service
    return service


async def _streams_of(request: Request) -> EventStreams:
    streams: EventStreams = request.app.state.streams
    return streams


async def _is_keyed(request: Request) -> bool:
    return bool(request.app.state.is_keyed)


async def _root_path_of(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


Service = Annotated[TaskService, Depends(_service_of)]
"""Route parameter: the task service that the API was built over."""

Streams = Annotated[EventStreams, Depends(_streams_of)]
"""Route parameter: the event streams of the API."""

IsKeyed = Annotated[bool, Depends(_is_keyed)]
"""Route parameter: whether the API asks for keys."""

TaskInPath = Annotated[
    str,
    Path(
        description="The task's id.",
        examples=["beach-1"],
        json_schema_extra={"pattern": f"^{TASK_ID_PATTERN}$"},
    ),
]
"""Route parameter: a task's id, unchecked, since no task has one that cannot be."""

FileInPath = Annotated[
    str, Path(description="A status's `video_path`.", examples=["outputs/videos/beach-1.mp4"])
]
"""Route parameter: the path of a video, as a status names it."""

RootPath = Annotated[str, Depends(_root_path_of)]
"""Route parameter: the ASGI root path without a trailing slash, the prefix of links in responses."""
