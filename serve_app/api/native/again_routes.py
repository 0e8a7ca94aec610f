"""The native surface's route of a video made again, with changes: ``/v1/tasks/video/again``."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from starlette.responses import Response

from serve_app.api.http.api_document import either_body
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import idempotency_key, read_object
from serve_app.api.http.examples import curl_json
from serve_app.api.http.form import header_parameters
from serve_app.api.http.parameters import RootPath, Service
from serve_app.api.http.served_route import served_router
from serve_app.api.native.again_request import FILE, AgainRequest, Earlier
from serve_app.api.native.submit_answers import SUBMIT_ANSWERS, Wait, submit_answer
from serve_app.api.native.video_form import UPLOAD_LISTS, UPLOADS, read_video_form
from serve_app.errors import InvalidField
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller

_UPLOADS = {FILE: "task_id", **UPLOADS}
"""File fields of the form, each with the field that it takes the place of."""

_AGAIN = "again"
"""The entry of a stored request that names the earlier task."""

router = served_router(tags=["tasks"])


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a client sent: the changes, all its fields by name, and its files by the field of each."""

    changes: AgainRequest
    named: Mapping[str, Any]
    files: Mapping[str, bytes]


@router.post(
    "/v1/tasks/video/again",
    summary="Submit an earlier video again, of a task or a file, with changes",
    responses=SUBMIT_ANSWERS,
    openapi_extra={
        **either_body(AgainRequest, _UPLOADS, UPLOAD_LISTS),
        **curl_json("/v1/tasks/video/again", '{"task_id": "ball", "prompt": "the same at night"}'),
    },
)
async def again(
    request: Request, service: Service, caller: Calling, root_path: RootPath, wait: Wait = 0
) -> Response:
    """Take an earlier video, its seed included, and changes to it, as a JSON object or as a form.

    `task_id` names the earlier task; instead, a form may hold its video as `file`, which has the settings.
    """
    sent = await _read(request, service)
    earlier = await _earlier(service, caller, sent)
    pictures = {field: data for field, data in sent.files.items() if field != _UPLOADS[FILE]}
    changed, pictures_of_all = sent.changes.applied(earlier, pictures)
    notes = AgainRequest.unknown_among(sent.named)
    order = changed.order(uploads=pictures_of_all, notes=notes, idempotency_key=idempotency_key(request))
    source = {} if sent.changes.task_id is None else {_AGAIN: sent.changes.task_id}
    order = replace(order, sent={**order.sent, **source})
    submitted = await service.submit(caller, order, changed.words())
    return await submit_answer(service, caller, submitted, root_path, wait)


async def _earlier(service: TaskService, caller: Caller, sent: _Sent) -> Earlier:
    """Return the earlier video. Raises ``TaskNotFound``, ``InvalidField``."""
    video, task_id = sent.files.get(_UPLOADS[FILE]), sent.changes.task_id
    if (video is None) == (task_id is None):
        raise InvalidField(
            "task_id", "task_id: send the id of a task, or in a form a video as file; one of them."
        )
    if task_id is not None:
        return Earlier.of_task(await service.task(caller, task_id))
    assert video is not None
    return await asyncio.to_thread(Earlier.of_file, video)


async def _read(request: Request, service: TaskService) -> _Sent:
    kind, _ = header_parameters(request.headers.get("content-type", ""))
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await read_object(request)
        return _Sent(AgainRequest.read_json(body), body, {})
    limit = service.offer.max_file_bytes
    form = await read_video_form(request, max_file_bytes=limit, uploads=_UPLOADS, model=AgainRequest)
    return _Sent(AgainRequest.read_lenient(form.fields), form.named, form.uploads)
