"""The OpenAI surface's routes: ``/v1/videos`` and ``/v1/models``."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Path, Query, Request
from starlette.responses import Response

from serve_app.api.http.api_document import either_body, json_body, video_answers
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import MAX_TEXT_BYTES, idempotency_key, read_object
from serve_app.api.http.examples import curl
from serve_app.api.http.form import header_parameters, read_form
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import Service, TaskInPath
from serve_app.api.http.refusals import refused
from serve_app.api.http.served_route import served_router
from serve_app.api.http.video_file import send_video, suffix_of
from serve_app.api.openai.bracket_fields import nested
from serve_app.api.openai.create_request import CreateRequest, with_extras
from serve_app.api.openai.refusal import ErrorBody, openai_answers
from serve_app.api.openai.remix_request import RemixRequest
from serve_app.api.openai.sent_files import FIRST_FRAME, UPLOAD_LISTS, UPLOADS
from serve_app.api.openai.source_request import EditRequest, ExtensionRequest
from serve_app.api.openai.video_document import (
    DeletedVideo,
    ModelObject,
    ModelPage,
    VideoObject,
    VideoPage,
    model_page,
    poll_after_ms,
    video_object,
    video_page,
)
from serve_app.api.openai.video_links import with_content_links, with_link_to_first, with_video_links
from serve_app.errors import FileNotFound, ModelNotFound, ResultNotReady
from serve_app.media.video_stills import StillKind
from serve_app.queue.snapshot import QueueSnapshot
from serve_app.submission.field_words import FieldWords
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task

_REFUSED_SUBMITS = (400, 403, 404, 409, 413, 422, 429, 503, 507)
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_MEDIA_TYPES: Mapping[StillKind, str] = {
    StillKind.THUMBNAIL: "image/webp",
    StillKind.SPRITESHEET: "image/jpeg",
    StillKind.LAST_FRAME: "image/png",
}
_SHOWN_UPLOADS = {
    FIRST_FRAME: f"{FIRST_FRAME}[image_url]",
    "last_frame_path": "last_frame_path[image_url]",
    "video": "video[video_url]",
    "mask": "mask[video_url]",
}
_SHOWN_LISTS = {"input_references": "input_references[][image_url]"}
"""Files of a form as the document has them: other names of a field take them, too."""

Variant = Annotated[
    Literal["video", "thumbnail", "spritesheet", "last_frame", "0"],
    Query(
        description="the video, its first frame (WebP), up to 16 of its frames (JPEG), or its last one "
        "(PNG); 0: the video"
    ),
]


def _body(model: type[CreateRequest]) -> dict[str, Any]:
    return either_body(model, _SHOWN_UPLOADS, _SHOWN_LISTS)


ModelInPath = Annotated[str, Path(description="The model's name.", examples=["demo"])]

_Request = TypeVar("_Request", bound=CreateRequest)

router = served_router(tags=["openai"])


@router.post(
    "/v1/videos",
    summary="Submit a video, as JSON or as a form",
    responses=with_video_links(openai_answers(VideoObject, *_REFUSED_SUBMITS)),
    openapi_extra={
        **_body(CreateRequest),
        **curl("/v1/videos", '-F prompt="a red ball" -F seconds=3 -F size=160x96'),
    },
)
async def create(request: Request, service: Service, caller: Calling) -> Response:
    """Take a video request, and answer with the video in the queue."""
    return await _made(CreateRequest, request, service, caller)


@router.get(
    "/v1/videos",
    summary="Videos, newest first",
    responses=with_link_to_first(openai_answers(VideoPage, 404, 422), "openai_retrieve", "task_id"),
)
async def list_videos(
    service: Service,
    caller: Calling,
    after: Annotated[str, Query(description="only those that come after this id")] = "",
    limit: Annotated[int, Query(ge=1, le=100, description="at most so many")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="oldest or newest first")] = "desc",
) -> Response:
    """Answer with one page of the caller's videos."""
    tasks = await service.tasks(caller, limit=limit + 1, after=after or None, oldest_first=order == "asc")
    page = video_page(tasks[:limit], await service.queue(), service.offer, has_more=len(tasks) > limit)
    return JsonAnswer(page)


@router.get(
    "/v1/videos/{task_id}",
    summary="How far a video is",
    responses=with_content_links(openai_answers(VideoObject, 404)),
    openapi_extra=curl("/v1/videos/ball"),
)
async def retrieve(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Answer with a video's status; a failed one says why."""
    return _video(service, await service.task(caller, task_id), await service.queue())


@router.delete(
    "/v1/videos/{task_id}",
    summary="Delete a video and its file; cancel it first",
    responses=openai_answers(DeletedVideo, 404),
)
async def delete(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Cancel a video if it has not ended, and forget it."""
    await service.forget(caller, task_id)
    deleted: DeletedVideo = {"id": task_id, "object": "video.deleted", "deleted": True}
    return JsonAnswer(deleted)


@router.post(
    "/v1/videos/{task_id}/cancel",
    summary="Cancel a video",
    responses=openai_answers(VideoObject, 404),
)
async def cancel(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Cancel a video, and answer with it; nothing happens to one that has ended."""
    task, _ = await service.cancel(caller, task_id)
    return _video(service, task, await service.queue())


@router.post(
    "/v1/videos/{task_id}/remix",
    summary="Make a video again with another prompt",
    responses=with_video_links(openai_answers(VideoObject, *_REFUSED_SUBMITS)),
    openapi_extra=json_body(RemixRequest),
)
async def remix(task_id: TaskInPath, request: Request, service: Service, caller: Calling) -> Response:
    """Submit a video with the settings, the seed and the pictures of another one."""
    sent = RemixRequest.read_json(await read_object(request, max_bytes=MAX_TEXT_BYTES))
    order = sent.order(await service.task(caller, task_id), idempotency_key=idempotency_key(request))
    submitted = await service.submit(caller, order, FieldWords({}))
    return _video(service, submitted.task, submitted.queue)


@router.get(
    "/v1/videos/{task_id}/content",
    summary="The finished video, or a picture of it",
    responses=video_answers(404, 409, 416, 422, refusal=ErrorBody, media_types=tuple(_MEDIA_TYPES.values())),
    response_class=Response,
)
async def content(
    task_id: TaskInPath, request: Request, service: Service, caller: Calling, variant: Variant = "video"
) -> Response:
    """Send a video, or a picture of it, which is made when it is first asked for."""
    task = _finished(await service.task(caller, task_id))
    if variant in ("video", "0"):
        video = await service.video(task)
        return send_video(request, video, filename=task.id + suffix_of(video), attachment=False)
    kind = StillKind(variant)
    picture = await service.still(task, kind)
    name = task.id + suffix_of(picture)
    return send_video(request, picture, filename=name, attachment=False, media_type=_MEDIA_TYPES[kind])


@router.get(
    "/v1/models",
    summary="The served models",
    responses=with_link_to_first(openai_answers(ModelPage), "openai_retrieve_model", "model"),
    openapi_extra=curl("/v1/models"),
)
async def list_models(service: Service) -> Response:
    """Answer with the names of the models."""
    return JsonAnswer(model_page(service.offer))


@router.get("/v1/models/{model}", summary="A served model", responses=openai_answers(ModelObject, 404))
async def retrieve_model(model: ModelInPath, service: Service) -> Response:
    """Answer with a model of that name."""
    for found in model_page(service.offer)["data"]:
        if found["id"] == model:
            return JsonAnswer(found)
    raise ModelNotFound("No model of this name is served; GET /v1/models lists those that are.")


@router.post(
    "/v1/videos/edits",
    summary="Change a video by a prompt",
    responses=with_video_links(openai_answers(VideoObject, *_REFUSED_SUBMITS)),
    openapi_extra=_body(EditRequest),
)
async def edit(request: Request, service: Service, caller: Calling) -> Response:
    """Take a request for another version of a video, and answer with the new one in the queue."""
    return await _made(EditRequest, request, service, caller)


@router.post(
    "/v1/videos/extensions",
    summary="Make a video longer",
    responses=with_video_links(openai_answers(VideoObject, *_REFUSED_SUBMITS)),
    openapi_extra=either_body(ExtensionRequest, {}),
)
async def extend(request: Request, service: Service, caller: Calling) -> Response:
    """Take a request for an earlier video with more at its end, and answer with the whole in the queue."""
    return await _made(ExtensionRequest, request, service, caller)


@router.post("/v1/videos/characters", include_in_schema=False)
async def unsupported(_caller: Calling) -> Response:
    """Refuse what OpenAI's API has and this one has not."""
    detail = "Characters are not offered; send pictures of them as input_references."
    return refused(400, detail, "unsupported")


async def _made(
    model: type[CreateRequest], request: Request, service: TaskService, caller: Caller
) -> Response:
    """Submit the request in a body, and answer with its video."""
    sent, fields, uploads = await _read(model, request, service)
    files = sent.files(uploads)
    source = None
    if files.earlier_id is not None:
        source = await service.task(caller, files.earlier_id)
        if not isinstance(sent, ExtensionRequest):
            files = files.with_video(await _content(service, source))
    order = sent.order(
        files, notes=model.unknown_among(fields), idempotency_key=idempotency_key(request), source=source
    )
    submitted = await service.submit(caller, order, sent.words(files))
    return _video(service, submitted.task, submitted.queue)


async def _content(service: TaskService, task: Task) -> bytes:
    video = await service.video(_finished(task))
    try:
        return await asyncio.to_thread(lambda: b"".join(video.chunks(0, video.size)))
    except OSError:  # deleted a moment ago
        raise FileNotFound("The video is no longer kept.") from None


def _finished(task: Task) -> Task:
    if task.artifact is None:
        raise ResultNotReady("There is no video yet, or none any more to come: see its status and error.")
    return task


async def _read(
    model: type[_Request], request: Request, service: TaskService
) -> tuple[_Request, Mapping[str, Any], Mapping[str, bytes]]:
    """Read a body of either kind: the request, all its fields, and the uploaded files."""
    if header_parameters(request.headers.get("content-type", ""))[0] not in _FORMS:
        body = with_extras(await read_object(request))
        return model.read_json(body), body, {}
    limit = service.offer.max_file_bytes
    form = await read_form(
        request, files=UPLOADS, lists=UPLOAD_LISTS, max_file_bytes=limit, max_text_bytes=2 * limit
    )
    fields = with_extras(nested(form.texts))
    return model.read_lenient(fields), fields, form.files


def _video(service: TaskService, task: Task, queue: QueueSnapshot) -> Response:
    headers = {} if task.is_final else {"openai-poll-after-ms": str(poll_after_ms(task, queue))}
    return JsonAnswer(video_object(task, queue, service.offer), headers=headers)
