"""LightX2V's local API, ``/v1/local/video/generate``: always 200 but for field errors.

The service starts as many of these tasks as replicas are free and answers ``Service busy`` to the rest, so a
client that was written for one server per GPU keeps all GPUs occupied through one URL.
"""

from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from serve_app.api.http.api_document import answers, json_body
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import MAX_TEXT_BYTES, read_object
from serve_app.api.http.examples import curl_json
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import Service
from serve_app.api.http.route_table import CHANGING_GET
from serve_app.api.http.served_route import served_router
from serve_app.api.lightx2v.local_document import (
    CompletedTaskDocument,
    EndedDocument,
    ErrorDocument,
    LocalStatusDocument,
    LocalStopDocument,
    StartedDocument,
    UnendedTaskDocument,
    ended_document,
    task_status_document,
)
from serve_app.api.lightx2v.local_request import LOCAL_WORDS, LocalRequest, TaskStatusRequest
from serve_app.api.lightx2v.task_links import with_local_link
from serve_app.errors import InvalidField, ServiceError, TaskNotFound
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import FINAL, Status

_ALL_TASKS = 1000
_SAVE_FIELD = LOCAL_WORDS["save_path"]

router = served_router(prefix="/v1/local/video/generate", tags=["local"])


@router.post(
    "",
    summary="Start a video if a replica is free",
    responses=with_local_link(answers(StartedDocument | ErrorDocument, 422)),
    openapi_extra={
        **json_body(LocalRequest),
        **curl_json(
            "/v1/local/video/generate",
            '{"task_id": "cat", "prompt": "a cat", "save_video_path": "cat.mp4"}',
        ),
    },
)
async def generate(request: Request, service: Service, caller: Calling) -> Response:
    """Start a video at once, or say that no replica is free."""
    sent = LocalRequest.read_json(await read_object(request))
    try:
        return JsonAnswer(await _generate(service, caller, sent))
    except ServiceError as error:
        # A save path is checked on the disk; this API's clients learn of it as of a full service.
        if isinstance(error, InvalidField) and error.field != _SAVE_FIELD:
            raise
        refused: ErrorDocument = {"error": error.detail}
        return JsonAnswer(refused)


@router.get("/service_status", summary="Whether a replica is free", responses=answers(LocalStatusDocument))
async def service_status(service: Service, caller: Calling) -> Response:
    """Answer idle while any replica is free."""
    queue = await service.queue_now()
    document: LocalStatusDocument = {"service_status": "idle"}
    if not queue.is_idle:
        document = {"service_status": "busy", "task_id": queue.current(caller) or ""}
    return JsonAnswer(document)


@router.get(
    "/get_all_tasks",
    summary="The ended tasks, at most the newest 1000",
    responses=answers(dict[str, EndedDocument]),
)
async def get_all_tasks(service: Service, caller: Calling) -> Response:
    """Answer with the caller's ended tasks by id."""
    ended: dict[str, EndedDocument] = {}
    # Newest first; to an admin, tasks of several owners can have one id.
    for task in await service.tasks(caller, statuses=tuple(FINAL), limit=_ALL_TASKS):
        ended.setdefault(task.id, ended_document(task))
    return JsonAnswer(ended)


@router.post(
    "/task_status",
    summary="Whether a task is done",
    responses=answers(UnendedTaskDocument | CompletedTaskDocument, 422),
    openapi_extra=json_body(TaskStatusRequest),
)
async def task_status(request: Request, service: Service, caller: Calling) -> Response:
    """Answer with a task's status, and its outcome once it has ended."""
    task_id = TaskStatusRequest.read_json(await read_object(request, max_bytes=MAX_TEXT_BYTES)).task_id
    try:
        task = await service.task(caller, task_id)
    except TaskNotFound:
        unknown: UnendedTaskDocument = {"task_status": "not_found"}
        return JsonAnswer(unknown)
    return JsonAnswer(task_status_document(task))


@router.get(
    "/stop_running_task",
    summary="Stop what is running",
    responses=answers(LocalStopDocument),
    openapi_extra=dict(CHANGING_GET),
)
async def stop_running_task(service: Service, caller: Calling) -> Response:
    """Cancel the caller's running tasks, and those of this surface that are about to run."""
    running = await service.cancel_all(caller, Status.RUNNING)
    about_to_run = await _cancel_started(service, caller)
    document: LocalStopDocument = {"stop_status": "success", "reason": "Task stopped successfully."}
    if not running and not about_to_run:
        document = {"stop_status": "do_nothing", "reason": "No running task found."}
    return JsonAnswer(document)


async def _generate(
    service: TaskService, caller: Caller, sent: LocalRequest
) -> StartedDocument | ErrorDocument:
    if sent.use_prompt_enhancer and not service.offer.enhances_prompts:
        return {"error": "use_prompt_enhancer: there is no prompt enhancer; leave it out."}
    submitted = await service.submit_if_free(
        caller, sent.order(), LOCAL_WORDS, replace_same_id=not sent.task_id_must_unique
    )
    if submitted is None:
        return {"error": "Service busy"}
    return {
        "task_id": sent.task_id,
        "task_status": "processing",
        "save_video_path": sent.save_video_path or submitted.task.save_path,
    }


async def _cancel_started(service: TaskService, caller: Caller) -> Sequence[Task]:
    """Cancel this surface's queued tasks, which it calls running from their submit on."""
    cancelled = []
    for queued in await service.tasks(caller, statuses=(Status.QUEUED,), limit=_ALL_TASKS):
        if _SAVE_FIELD in queued.request:
            task, is_cancelled = await service.cancel(caller, queued.id)
            if is_cancelled:
                cancelled.append(task)
    return cancelled
