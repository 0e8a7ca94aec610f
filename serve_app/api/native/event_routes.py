"""The native surface's streams of task changes: server-sent events with the tasks' status documents."""

import math
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Header
from starlette.responses import Response

from serve_app.api.http.api_document import answers
from serve_app.api.http.auth import Calling
from serve_app.api.http.event_stream import EVENT_STREAM, PING, PING_S, event
from serve_app.api.http.examples import curl
from serve_app.api.http.parameters import RootPath, Service, Streams, TaskInPath
from serve_app.api.http.served_route import served_router
from serve_app.api.native.describe import describe, describe_all
from serve_app.api.native.task_document import TaskDocument
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task

_POSITION_S = 2.0
"""How often the place of a waiting task is looked at: it moves without a change of the task itself."""

_LastEvent = Annotated[str, Header(alias="Last-Event-ID", description="the `id` of the last event received")]

router = served_router(tags=["tasks"])


@router.get(
    "/v1/tasks/{task_id}/events",
    summary="Follow a task as it changes",
    responses={
        **answers(None, 404),
        200: dict(EVENT_STREAM),
        204: {"description": "The task has ended, and the client has its last event"},
    },
    openapi_extra=curl("/v1/tasks/ball/events", before="-N"),
    response_class=Response,
)
async def task_events(
    task_id: TaskInPath,
    service: Service,
    streams: Streams,
    caller: Calling,
    root_path: RootPath,
    last: _LastEvent = "",
) -> Response:
    """Send the task's status now and at each change, to its end, as server-sent events.

    After a break, send the last event's `id` as `Last-Event-ID`, as a browser's `EventSource` does by itself.
    """
    task = await service.task(caller, task_id)
    if task.is_final and last == _task_event_id(task):
        return Response(status_code=204)
    return streams.answer(_events_of(service, caller, task, root_path))


@router.get(
    "/v1/events",
    summary="Follow all of your tasks as they change",
    responses={**answers(None), 200: dict(EVENT_STREAM)},
    response_class=Response,
)
async def all_events(
    service: Service, streams: Streams, caller: Calling, root_path: RootPath, last: _LastEvent = ""
) -> Response:
    """Send the status of each unended task, then of each task that changes.

    After a break, the tasks that ended meanwhile come first. An event may come twice.
    """
    return streams.answer(_all_events(service, caller, _sent_at(last), root_path))


async def _events_of(service: TaskService, caller: Caller, task: Task, root_path: str) -> AsyncIterator[str]:
    told: TaskDocument | None = None
    told_at = time.monotonic()
    async for now in service.following(caller, task, pause_s=_POSITION_S):
        document = await describe(service, now, root_path)
        if _is_news(document, told):
            yield event(_task_event_id(now), document)
        elif time.monotonic() < told_at + PING_S:
            continue
        else:
            yield PING
        told, told_at = document, time.monotonic()


async def _all_events(
    service: TaskService, caller: Caller, since: float | None, root_path: str
) -> AsyncIterator[str]:
    told: dict[str, TaskDocument] = {}
    async for tasks in service.following_all(caller, ended_since=since, pause_s=PING_S):
        if not tasks:
            yield PING
        documents = await describe_all(service, tasks, root_path)
        news = []
        for task, document in zip(tasks, documents, strict=True):
            if _is_news(document, told.get(task.uid)):
                news.append(event(f"{time.time():.3f}", document))
            told[task.uid] = document
            if task.is_final:
                del told[task.uid]
        if news:  # in one piece: each piece passes through every layer below
            yield "".join(news)


def _is_news(document: TaskDocument, told: TaskDocument | None) -> bool:
    return told is None or document != {**told, "eta_seconds": document["eta_seconds"]}


def _task_event_id(task: Task) -> str:
    return f"{task.uid}.{task.version}"


def _sent_at(event_id: str) -> float | None:
    """Return the time in the id of an event of all tasks, None for anything else."""
    try:
        sent_at = float(event_id)
    except ValueError:
        return None
    return sent_at if math.isfinite(sent_at) else None
