"""The native surface's routes of the queue: its state, and what a client may change in it."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from serve_app.api.http.api_document import answers, json_body
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import MAX_TEXT_BYTES, read_object
from serve_app.api.http.examples import curl
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import RootPath, Service, TaskInPath
from serve_app.api.http.served_route import served_router
from serve_app.api.native.describe import describe
from serve_app.api.native.reorder_request import ReorderRequest
from serve_app.api.native.task_document import (
    QueueStatusDocument,
    StopDocument,
    TaskDocument,
    queue_status_document,
)
from serve_app.api.native.task_links import with_status_link
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.transitions import Status

_Model = Annotated[
    str, Query(max_length=64, description="this model's queue, of all keys; for admin keys", examples=[""])
]

# Included before the routes of tasks: "queue" and "all" would else be taken for the id of one.
router = served_router(tags=["tasks"])


@router.get("/v1/tasks/queue/status", summary="How full the queue is", responses=answers(QueueStatusDocument))
async def queue_status(service: Service, caller: Calling) -> Response:
    """Answer with the queue's length and its room."""
    return await _queue_status(service, caller)


@router.post(
    "/v1/tasks/queue/pause",
    summary="Begin none of your waiting tasks",
    responses=answers(QueueStatusDocument, 403, 422),
)
async def pause(service: Service, caller: Calling, model: _Model = "") -> Response:
    """Pause the caller's queue, or a model's; what runs goes on, and new tasks are taken and wait."""
    await service.pausing.pause(caller, model or None)
    return await _queue_status(service, caller)


@router.post(
    "/v1/tasks/queue/resume",
    summary="Begin your waiting tasks again",
    responses=answers(QueueStatusDocument, 403, 422),
)
async def resume(service: Service, caller: Calling, model: _Model = "") -> Response:
    """End a pause."""
    await service.pausing.resume(caller, model or None)
    return await _queue_status(service, caller)


@router.delete(
    "/v1/tasks/all/running",
    summary="Cancel every queued and running task that is yours",
    responses=answers(StopDocument),
)
async def cancel_all(service: Service, caller: Calling) -> Response:
    """Cancel all of the caller's queued and running tasks."""
    return await _cancel_all(service, caller, Status.QUEUED, Status.RUNNING)


@router.delete(
    "/v1/tasks/all/waiting",
    summary="Cancel every queued task that is yours",
    responses=answers(StopDocument),
)
async def cancel_waiting(service: Service, caller: Calling) -> Response:
    """Cancel all of the caller's tasks that have not begun."""
    return await _cancel_all(service, caller, Status.QUEUED)


@router.patch(
    "/v1/tasks/{task_id}",
    summary="Give a waiting task another priority",
    responses=with_status_link(answers(TaskDocument, 404, 409, 422)),
    openapi_extra={
        **json_body(ReorderRequest),
        **curl("/v1/tasks/ball", "-H 'Content-Type: application/json' -d '{\"priority\": 5}'", "-X PATCH"),
    },
)
async def reorder(
    task_id: TaskInPath, request: Request, service: Service, caller: Calling, root_path: RootPath
) -> Response:
    """Move a task in the queue, and answer with its status; one that runs or has ended is refused."""
    wanted = ReorderRequest.read_json(await read_object(request, max_bytes=MAX_TEXT_BYTES))
    task = await service.reorder(caller, task_id, wanted.priority)
    return JsonAnswer(await describe(service, task, root_path, queue_now=True))


@router.post(
    "/v1/tasks/{task_id}/next",
    summary="Put a waiting task before the others of its key",
    responses=with_status_link(answers(TaskDocument, 404, 409)),
)
async def put_first(task_id: TaskInPath, service: Service, caller: Calling, root_path: RootPath) -> Response:
    """Move a task before all others of its owner and model, and answer with its status.

    A task that runs or has ended is refused.
    """
    task = await service.put_first(caller, task_id)
    return JsonAnswer(await describe(service, task, root_path, queue_now=True))


async def _queue_status(service: TaskService, caller: Caller) -> Response:
    queue = await service.queue_now()
    return JsonAnswer(queue_status_document(queue, caller, service.offer.limits.max_queued))


async def _cancel_all(service: TaskService, caller: Caller, *statuses: Status) -> Response:
    cancelled = await service.cancel_all(caller, *statuses)
    which = "queued or running" if Status.RUNNING in statuses else "queued"
    document: StopDocument = (
        {"stop_status": "success", "reason": f"Tasks stopped successfully: {len(cancelled)}."}
        if cancelled
        else {"stop_status": "do_nothing", "reason": f"No {which} task found."}
    )
    return JsonAnswer(document)
