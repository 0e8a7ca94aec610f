"""LightX2V's task API: ``/v1/tasks`` and its companions, under the prefix of the surface."""

from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from serve_app.api.http.api_document import answers, form_body, json_body, video_answers
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import idempotency_key, read_object
from serve_app.api.http.examples import curl_json
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import Service, TaskInPath
from serve_app.api.http.refusals import refused
from serve_app.api.http.served_route import served_router
from serve_app.api.http.video_file import send_video
from serve_app.api.lightx2v.task_document import (
    LightX2VSubmitted,
    LightX2VTask,
    lightx2v_task,
    submitted_document,
)
from serve_app.api.lightx2v.task_links import with_result_link, with_task_links
from serve_app.api.lightx2v.task_request import LightX2VRequest
from serve_app.api.native import queue_routes, routes, service_routes
from serve_app.api.native.service_document import MetadataDocument, ServiceStatusDocument
from serve_app.api.native.task_document import QueueStatusDocument, StopDocument
from serve_app.api.native.video_form import UPLOAD_LISTS, UPLOADS, read_video_form
from serve_app.errors import NotFound, QueueFull, TaskExists, TaskNotFound
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status

_ALL_TASKS = 1000
_SUBMIT_ANSWERS = with_task_links(answers(LightX2VSubmitted, 400, 403, 413, 422, 429, 503, 507))

PREFIX = "/lightx2v"
"""Base URL for LightX2V's clients: its task API has the native API's paths, and other words."""

router = served_router(prefix=PREFIX, tags=["lightx2v"])


# They stand before the status of a task, which "queue" would else be the id of.
for _path, _answer, _document in (
    ("/v1/tasks/queue/status", queue_routes.queue_status, QueueStatusDocument),
    ("/v1/service/status", service_routes.service_status, ServiceStatusDocument),
    ("/v1/service/metadata", service_routes.service_metadata, MetadataDocument),
):
    router.get(_path, responses=answers(_document))(_answer)
router.get(
    "/v1/files/download/{file_path:path}",
    responses=video_answers(403, 404, 416),
    response_class=Response,
)(routes.download)


@router.post("/v1/tasks", include_in_schema=False)
@router.post(
    "/v1/tasks/video",
    summary="Submit a video as JSON",
    responses=_SUBMIT_ANSWERS,
    openapi_extra={
        **json_body(LightX2VRequest),
        **curl_json("/lightx2v/v1/tasks/video", '{"prompt": "a red ball", "infer_steps": 4}'),
    },
)
async def submit(request: Request, service: Service, caller: Calling) -> Response:
    """Take a video request as a JSON object, in which numbers may be text."""
    body = await read_object(request)
    return await _submit(service, caller, request, LightX2VRequest.read_lenient(body), body, uploads={})


@router.post("/v1/tasks/form", include_in_schema=False)
@router.post(
    "/v1/tasks/video/form",
    summary="Submit a video as a form, with image files",
    responses=_SUBMIT_ANSWERS,
    openapi_extra=form_body(LightX2VRequest, UPLOADS, UPLOAD_LISTS),
)
async def submit_form(request: Request, service: Service, caller: Calling) -> Response:
    """Take a video request as a form."""
    form = await read_video_form(request, max_file_bytes=service.offer.max_file_bytes)
    sent = LightX2VRequest.read_lenient(form.fields)
    return await _submit(service, caller, request, sent, form.named, uploads=form.uploads)


@router.get("/v1/tasks", summary="The newest 1000 tasks by id", responses=answers(dict[str, LightX2VTask]))
async def list_tasks(service: Service, caller: Calling) -> Response:
    """Answer with the caller's tasks, oldest first."""
    found: dict[str, LightX2VTask] = {}
    for task in reversed(await service.tasks(caller, limit=_ALL_TASKS)):
        found[task.id] = lightx2v_task(task)  # to an admin, tasks of several owners can have one id
    return JsonAnswer(found)


@router.get(
    "/v1/tasks/{task_id}/status",
    summary="How far a task is",
    responses=with_result_link(answers(LightX2VTask, 404)),
)
async def status(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Answer with the current status of one task."""
    return JsonAnswer(lightx2v_task(await _task(service, caller, task_id)))


@router.get(
    "/v1/tasks/{task_id}/result",
    summary="The finished video",
    responses=video_answers(404, 416),
    response_class=Response,
)
async def result(task_id: TaskInPath, request: Request, service: Service, caller: Calling) -> Response:
    """Send a task's video."""
    task = await _task(service, caller, task_id)
    if task.artifact is None:
        raise NotFound("Task not completed")
    video = await service.video(task)
    return send_video(request, video, filename=task.save_path.rpartition("/")[2], attachment=True)


@router.delete("/v1/tasks/running", include_in_schema=False)
@router.delete("/v1/tasks/all/running", summary="Cancel all your tasks", responses=answers(StopDocument))
async def cancel_all(service: Service, caller: Calling) -> Response:
    """Cancel all of the caller's queued and running tasks."""
    await service.cancel_all(caller, Status.QUEUED, Status.RUNNING)
    return _stopped({"stop_status": "success", "reason": "All tasks stopped successfully."})


@router.delete("/v1/tasks/{task_id}", summary="Cancel a task", responses=answers(StopDocument))
async def cancel(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Cancel one task; nothing happens to one that is unknown or has ended."""
    try:
        _, cancelled = await service.cancel(caller, task_id)
    except TaskNotFound:
        cancelled = False
    if cancelled:
        return _stopped({"stop_status": "success", "reason": "Task stopped successfully."})
    return _stopped({"stop_status": "do_nothing", "reason": "Task not found or already completed."})


async def _submit(
    service: TaskService,
    caller: Caller,
    request: Request,
    sent: LightX2VRequest,
    named: Mapping[str, object],
    *,
    uploads: Mapping[str, bytes],
) -> Response:
    notes = LightX2VRequest.unknown_among(named)
    order = sent.order(uploads=uploads, notes=notes, idempotency_key=idempotency_key(request))
    try:
        submitted = await service.submit(caller, order, sent.words())
    except QueueFull as error:
        detail = f"Task queue is full (max {service.offer.limits.max_queued} tasks)"
        return refused(503, detail, error.code, headers={"Retry-After": str(error.retry_after_s)})
    except TaskExists as error:
        return refused(503, error.detail, error.code)
    return JsonAnswer(submitted_document(submitted.task))


async def _task(service: TaskService, caller: Caller, task_id: str) -> Task:
    try:
        return await service.task(caller, task_id)
    except TaskNotFound:
        raise TaskNotFound("Task not found") from None


def _stopped(document: StopDocument) -> Response:
    return JsonAnswer(document)
