"""The native surface: ``/v1/tasks`` and ``/v1/files``."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.http import api_document as openapi
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import idempotency_key, read_form, read_object
from serve_app.api.http.video_file import video_response
from serve_app.api.native.task_document import (
    NATIVE_STATUS,
    SubmitDocument,
    TaskDocument,
    submit_document,
    task_document,
)
from serve_app.api.native.video_request import VideoRequest, is_task_id
from serve_app.errors import FileNotFound, InvalidField, PathForbidden, ResultNotReady, TaskNotFound
from serve_app.submission.submission import Submission
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status

_UPLOADS = {"image_file": "image_path", "last_frame_file": "last_frame_path"}
"""Each file of a form, and the field that holds the same image in JSON."""

_STATUSES: Mapping[str, Status] = {word: status for status, word in NATIVE_STATUS.items()}


def native_router(service: TaskService) -> APIRouter:
    """The routes of the native surface."""
    router = APIRouter(tags=["tasks"])

    @router.post(
        "/v1/tasks/video",
        summary="Submit a video as JSON",
        responses=openapi.answers(SubmitDocument, 400, 403, 409, 413, 422, 429, 503, 507),
        openapi_extra=openapi.json_body(VideoRequest),
    )
    async def submit(request: Request, caller: Calling) -> Response:
        body = await read_object(request)
        unknown = VideoRequest.unknown_among(body)
        return await _submit(
            service,
            caller,
            Submission(
                VideoRequest.read_json(body),
                notes=(unknown,) if unknown else (),
                idempotency_key=idempotency_key(request),
            ),
        )

    @router.post(
        "/v1/tasks/video/form",
        summary="Submit a video as a form, with image files",
        responses=openapi.answers(SubmitDocument, 400, 403, 409, 413, 422, 429, 503, 507),
        openapi_extra=openapi.form_body(VideoRequest, _UPLOADS),
    )
    async def submit_form(request: Request, caller: Calling) -> Response:
        limit = service.settings.limits.max_image_bytes
        form = await read_form(request, max_file_bytes=limit, max_text_bytes=2 * limit)
        for name in _UPLOADS.keys() & form.fields.keys():
            if form.fields[name]:
                raise InvalidField(name, f"{name}: must be an uploaded file; text goes in {_UPLOADS[name]}.")
        named = {name: None for name in (*form.fields, *form.files) if name not in _UPLOADS}
        unknown = VideoRequest.unknown_among(named)
        return await _submit(
            service,
            caller,
            Submission(
                VideoRequest.read_form(form.fields),
                uploads={_UPLOADS[name]: data for name, data in form.files.items() if name in _UPLOADS},
                notes=(unknown,) if unknown else (),
                idempotency_key=idempotency_key(request),
            ),
        )

    @router.get(
        "/v1/tasks/queue/status", summary="How full the queue is", responses=openapi.answers(dict[str, Any])
    )
    async def queue_status(caller: Calling) -> Response:
        queue = await service.view.fresh()
        running = queue.running_of(caller)
        size = service.settings.limits.max_queued
        return JSONResponse(
            {
                "is_processing": bool(queue.running),
                "current_task": running[0].id if running else None,
                "pending_count": queue.pending,
                "active_count": len(queue.running),
                "queue_size": size,
                "queue_available": max(size - queue.pending, 0),
            }
        )

    @router.get(
        "/v1/tasks/{task_id}/status",
        summary="How far a task is",
        responses=openapi.answers(TaskDocument, 404),
    )
    async def status(task_id: str, request: Request, caller: Calling) -> Response:
        task = await _task(service, caller, task_id)
        queue = await service.view.recent()
        return JSONResponse(task_document(task, queue, root_path=_root_path(request)))

    @router.head("/v1/tasks/{task_id}/result", include_in_schema=False)
    @router.get(
        "/v1/tasks/{task_id}/result",
        summary="The finished video",
        responses=openapi.video_answers(404, 409, 416),
    )
    async def result(task_id: str, request: Request, caller: Calling) -> Response:
        task = await _task(service, caller, task_id)
        if task.artifact is None:
            raise ResultNotReady(_why_no_result(task))
        return await _send(service, request, task, filename=f"{task.id}.mp4", attachment=False)

    @router.head("/v1/files/download/{file_path:path}", include_in_schema=False)
    @router.get(
        "/v1/files/download/{file_path:path}",
        tags=["files"],
        summary="Download a finished video by its `video_path`",
        responses=openapi.video_answers(403, 404, 416),
    )
    async def download(file_path: str, request: Request, caller: Calling) -> Response:
        task = await _published(service, caller, file_path)
        name = task.save_path.rpartition("/")[2]
        return await _send(service, request, task, filename=name, attachment=True)

    @router.get(
        "/v1/tasks",
        summary="Tasks, newest first",
        responses=openapi.answers(dict[str, Any], 404, 422),
    )
    async def list_tasks(
        request: Request,
        caller: Calling,
        status: Annotated[str, Query(description="only these, with commas", examples=["running"])] = "",
        limit: Annotated[int, Query(ge=1, le=500, description="at most so many")] = 50,
        after: Annotated[str, Query(description="only those older than this task id")] = "",
    ) -> Response:
        if after and not is_task_id(after):
            raise TaskNotFound("after: there is no such task.")
        tasks = await service.store.list(
            caller, statuses=_statuses(status), limit=limit + 1, after=after or None
        )
        queue = await service.view.recent()
        root_path = _root_path(request)
        documents = [task_document(task, queue, root_path=root_path) for task in tasks[:limit]]
        return JSONResponse({"tasks": documents, "has_more": len(tasks) > limit})

    @router.delete(
        "/v1/tasks/all/running",
        summary="Cancel every queued and running task that is yours",
        responses=openapi.answers(dict[str, str]),
    )
    async def cancel_all(caller: Calling) -> Response:
        cancelled = await service.cancel_all(caller, Status.QUEUED, Status.RUNNING)
        if not cancelled:
            return _stopped("do_nothing", "No queued or running task found.")
        return _stopped("success", f"Tasks stopped successfully: {len(cancelled)}.")

    @router.delete(
        "/v1/tasks/{task_id}", summary="Cancel a task", responses=openapi.answers(dict[str, str], 404)
    )
    async def cancel(task_id: str, caller: Calling) -> Response:
        task, cancelled = await service.cancel(caller, (await _task(service, caller, task_id)).id)
        if cancelled:
            return _stopped("success", "Task stopped successfully.")
        return _stopped("do_nothing", f"The task had already ended as {NATIVE_STATUS[task.status]}.")

    return router


async def _submit(service: TaskService, caller: Caller, submission: Submission) -> Response:
    submitted = await service.submit(caller, submission)
    queue = await service.view.recent()
    return JSONResponse(submit_document(submitted.task, queue, is_new=submitted.is_new))


async def _task(service: TaskService, caller: Caller, task_id: str) -> Task:
    if not is_task_id(task_id):  # no task can have it, and not every database could be asked for it
        raise TaskNotFound("There is no task of that id.")
    return await service.store.get(caller, task_id)


async def _published(service: TaskService, caller: Caller, file_path: str) -> Task:
    """The task behind a path that a client names: found in the store, never on the disk."""
    own = service.outputs_of(caller)
    # Clients drop the slash that an absolute path begins with. An admin names other folders than its own too.
    spellings = [(own, file_path), (own, f"/{file_path}")]
    if own != service.outputs and caller.is_admin:
        spellings.append((service.outputs, file_path))
    for outputs, name in spellings:
        try:
            place = await asyncio.to_thread(outputs.resolve, name)
        except InvalidField:
            continue
        except PathForbidden:
            if name is file_path and ".." in file_path.split("/"):
                raise
            continue
        task = await service.store.published_at(caller, service.outputs.public_path(place))
        if task is not None:
            return task
    raise FileNotFound("There is no finished video of that name.")


async def _send(
    service: TaskService, request: Request, task: Task, *, filename: str, attachment: bool
) -> Response:
    def respond() -> Response:
        path = service.artifacts.path_of(task.artifact or "")
        return video_response(request, path, filename=filename, attachment=attachment)

    try:
        return await asyncio.to_thread(respond)
    except (FileNotFound, OSError):
        raise FileNotFound("The video is no longer kept.") from None


def _why_no_result(task: Task) -> str:
    if task.status is Status.FAILED:
        return "The task failed and has no result; its status says why."
    if task.status is Status.CANCELLED:
        return "The task was cancelled and has no result."
    return f"The task has not finished: it is {NATIVE_STATUS[task.status]}. Ask again once it says succeed."


def _statuses(text: str) -> tuple[Status, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not _STATUSES.keys() >= set(words):
        raise InvalidField("status", f"status: must be one or more of {', '.join(_STATUSES)}.")
    return tuple(_STATUSES[word] for word in words) or tuple(Status)


def _stopped(stop_status: str, reason: str) -> Response:
    return JSONResponse({"stop_status": stop_status, "reason": reason})


def _root_path(request: Request) -> str:
    return str(request.scope.get("root_path", ""))
