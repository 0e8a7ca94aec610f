"""The native surface's routes of tasks and their videos: ``/v1/tasks`` and ``/v1/files``."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from serve_app.api.http.api_document import answers, form_body, json_body, picture_answers, video_answers
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import idempotency_key, read_object
from serve_app.api.http.etag import send_tagged
from serve_app.api.http.examples import curl, curl_json
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import FileInPath, RootPath, Service, TaskInPath
from serve_app.api.http.served_route import served_router
from serve_app.api.http.video_file import send_video, suffix_of
from serve_app.api.native.describe import describe, describe_all
from serve_app.api.native.submit_answers import SUBMIT_ANSWERS, Wait, submit_answer
from serve_app.api.native.task_document import (
    NATIVE_STATUS,
    StopDocument,
    TaskDocument,
    TaskListDocument,
    why_no_result,
)
from serve_app.api.native.task_links import with_result_links, with_status_link
from serve_app.api.native.video_form import UPLOAD_LISTS, UPLOADS, read_video_form
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField, NoPreview, ResultNotReady
from serve_app.media.video_stills import StillKind
from serve_app.submission.submitted import Submitted
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.transitions import Status

_STATUSES: Mapping[str, Status] = {word: status for status, word in NATIVE_STATUS.items()}

router = served_router(tags=["tasks"])


@router.post(
    "/v1/tasks/video",
    summary="Submit a video as JSON",
    responses=SUBMIT_ANSWERS,
    openapi_extra={
        **json_body(VideoRequest),
        **curl_json(
            "/v1/tasks/video",
            '{"prompt": "a red ball moving left to right", "task_id": "ball", "seed": 42}',
        ),
    },
)
async def submit(
    request: Request, service: Service, caller: Calling, root_path: RootPath, wait: Wait = 0
) -> Response:
    """Take a video request as a JSON object, in which numbers must be numbers: `"4"` is refused, `4.0` is 4.

    The answer comes once the task is stored. A repeated request with the same header `Idempotency-Key` (1 to
    255 printable ASCII characters) gives the same task.
    """
    body = await read_object(request)
    sent = VideoRequest.read_json(body)
    submitted = await _submit(service, caller, request, sent, body, uploads={})
    return await submit_answer(service, caller, submitted, root_path, wait)


@router.post(
    "/v1/tasks/video/form",
    summary="Submit a video as a form, with image files",
    responses=SUBMIT_ANSWERS,
    openapi_extra={
        **form_body(VideoRequest, UPLOADS, UPLOAD_LISTS),
        **curl("/v1/tasks/video/form", '-F prompt="the ball jumps" -F image_file=@ball.png'),
    },
)
async def submit_form(
    request: Request, service: Service, caller: Calling, root_path: RootPath, wait: Wait = 0
) -> Response:
    """Take a video request as a form; uploaded files replace the fields that hold images in JSON.

    Numbers are text, and an empty field counts as not sent.
    """
    form = await read_video_form(request, max_file_bytes=service.offer.max_file_bytes)
    sent = VideoRequest.read_lenient(form.fields)
    submitted = await _submit(service, caller, request, sent, form.named, uploads=form.uploads)
    return await submit_answer(service, caller, submitted, root_path, wait)


@router.get(
    "/v1/tasks/{task_id}/status",
    summary="How far a task is",
    responses=with_result_links(answers(TaskDocument, 404, 422)),
    openapi_extra=curl("/v1/tasks/ball/status?wait=30"),
)
async def status(
    task_id: TaskInPath, service: Service, caller: Calling, root_path: RootPath, wait: Wait = 0
) -> Response:
    """Answer with the current status of one task, or once it has ended."""
    task = await service.ended(caller, await service.task(caller, task_id), wait_s=wait)
    return JsonAnswer(await describe(service, task, root_path))


@router.get(
    "/v1/tasks/{task_id}/result",
    summary="The finished video",
    openapi_extra=curl("/v1/tasks/ball/result", "-o ball.mp4"),
    responses=video_answers(404, 409, 416),
    response_class=Response,
)
async def result(task_id: TaskInPath, request: Request, service: Service, caller: Calling) -> Response:
    """Send a task's video for inline playback, whole or in ranges; it never changes."""
    task = await service.task(caller, task_id)
    if task.artifact is None:
        raise ResultNotReady(why_no_result(task))
    video = await service.video(task)
    return send_video(request, video, filename=task.id + suffix_of(video), attachment=False)


@router.get(
    "/v1/tasks/{task_id}/last_frame",
    summary="The last frame of the finished video",
    responses=picture_answers(404, 409, 416, media_type="image/png"),
    response_class=Response,
)
async def last_frame(task_id: TaskInPath, request: Request, service: Service, caller: Calling) -> Response:
    """Send the last frame: as it was made if the request asked for that, else as the video has it."""
    task = await service.task(caller, task_id)
    if task.artifact is None:
        raise ResultNotReady(why_no_result(task))
    picture = await service.still(task, StillKind.LAST_FRAME)
    name = f"{task.id}.last_frame.png"
    return send_video(request, picture, filename=name, attachment=False, media_type="image/png")


@router.get(
    "/v1/tasks/{task_id}/preview",
    summary="What a running task looks like so far",
    responses={**picture_answers(404, 422), 204: {"description": "There is none yet, with `empty`"}},
    response_class=Response,
)
async def preview(
    task_id: TaskInPath,
    request: Request,
    service: Service,
    caller: Calling,
    form: Annotated[
        str, Query(description="`still`, or `strip` for an animation", examples=["still"])
    ] = "still",
    empty: Annotated[
        bool, Query(description="answer 204 while there is none, for pages, whose browser logs each 404")
    ] = False,
) -> Response:
    """Send the newest preview, a small WebP.

    A run makes them while somebody looks: ask every second or two, with the last `ETag` as `If-None-Match`.
    """
    if form not in ("still", "strip"):
        raise InvalidField("form", "form: must be still or strip.")
    task = await service.task(caller, task_id)
    try:
        return send_tagged(request, await service.preview(task, form), "image/webp")
    except NoPreview:
        if not empty:
            raise
        return Response(status_code=204)


@router.get(
    "/v1/files/download/{file_path:path}",
    tags=["files"],
    summary="Download a finished video by its `video_path`",
    openapi_extra=curl("/v1/files/download/outputs/videos/ball.mp4", "-o ball.mp4"),
    responses=video_answers(403, 404, 416),
    response_class=Response,
)
async def download(file_path: FileInPath, request: Request, service: Service, caller: Calling) -> Response:
    """Send the newest video of that name as an attachment."""
    task = await service.published(caller, file_path)
    video = await service.video(task)
    return send_video(request, video, filename=task.save_path.rpartition("/")[2], attachment=True)


@router.get(
    "/v1/tasks",
    summary="Tasks, newest first",
    responses=with_status_link(answers(TaskListDocument, 404, 422), "$response.body#/tasks/0/task_id"),
    openapi_extra=curl("/v1/tasks?status=succeed&limit=10"),
)
async def list_tasks(
    service: Service,
    caller: Calling,
    root_path: RootPath,
    status: Annotated[str, Query(description="only these, with commas", examples=["running"])] = "",
    limit: Annotated[int, Query(ge=1, le=500, description="at most so many")] = 50,
    after: Annotated[str, Query(description="only those older than this task id")] = "",
) -> Response:
    """Answer with one page of the caller's tasks."""
    tasks = await service.tasks(caller, statuses=_statuses(status), limit=limit + 1, after=after or None)
    page: TaskListDocument = {
        "tasks": await describe_all(service, tasks[:limit], root_path),
        "has_more": len(tasks) > limit,
    }
    return JsonAnswer(page)


@router.delete(
    "/v1/tasks/{task_id}",
    summary="Cancel a task",
    responses=with_status_link(answers(StopDocument, 404)),
    openapi_extra=curl("/v1/tasks/ball", before="-X DELETE"),
)
async def cancel(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Cancel one task, whether it waits or runs; nothing happens to one that has ended."""
    task, cancelled = await service.cancel(caller, task_id)
    if cancelled:
        return _stopped({"stop_status": "success", "reason": "Task stopped successfully."})
    ended = f"The task had already ended as {NATIVE_STATUS[task.status]}."
    return _stopped({"stop_status": "do_nothing", "reason": ended})


@router.post(
    "/v1/tasks/{task_id}/finish_early",
    summary="End a running task with what it has made",
    responses=with_status_link(answers(TaskDocument, 404, 409)),
)
async def finish_early(
    task_id: TaskInPath, service: Service, caller: Calling, root_path: RootPath
) -> Response:
    """Have a run decode what there is after the step that it is at; the task then succeeds, with a note.

    No further fragment is begun. A task that does not run is refused.
    """
    task = await service.finish_early(caller, task_id)
    return JsonAnswer(await describe(service, task, root_path))


@router.post(
    "/v1/tasks/{task_id}/webhooks/resend",
    summary="Send the webhook messages about a task again",
    responses=with_status_link(answers(TaskDocument, 404, 409)),
)
async def resend_webhooks(
    task_id: TaskInPath, service: Service, caller: Calling, root_path: RootPath
) -> Response:
    """Have every message about a task sent again, under its id, and answer with the task's status."""
    task = await service.resend(caller, task_id)
    return JsonAnswer(await describe(service, task, root_path))


async def _submit(
    service: TaskService,
    caller: Caller,
    request: Request,
    sent: VideoRequest,
    named: Mapping[str, object],
    *,
    uploads: Mapping[str, bytes],
) -> Submitted:
    """Submit what was ``sent``; ``named`` are all fields of the body, of which unknown ones are reported."""
    notes = VideoRequest.unknown_among(named)
    order = sent.order(uploads=uploads, notes=notes, idempotency_key=idempotency_key(request))
    return await service.submit(caller, order, sent.words())


def _statuses(text: str) -> tuple[Status, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not _STATUSES.keys() >= set(words):
        raise InvalidField("status", f"status: must be one or more of {', '.join(_STATUSES)}.")
    return tuple(_STATUSES[word] for word in words) or tuple(Status)


def _stopped(document: StopDocument) -> Response:
    return JsonAnswer(document)
