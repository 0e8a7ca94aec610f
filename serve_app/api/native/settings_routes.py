"""The native surface's routes of what a task was made from: its settings, and its pictures."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from serve_app.api.http.api_document import answers, picture_answers
from serve_app.api.http.auth import Calling
from serve_app.api.http.etag import send_tagged
from serve_app.api.http.examples import curl
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.parameters import Service, TaskInPath
from serve_app.api.http.served_route import served_router
from serve_app.api.native.again_request import Earlier
from serve_app.api.native.task_document import SettingsDocument
from serve_app.api.native.task_inputs import CLIPS, input_keys
from serve_app.api.native.task_links import with_status_link
from serve_app.errors import FileNotFound

router = served_router(tags=["tasks"])


@router.get(
    "/v1/tasks/{task_id}/settings",
    summary="The request that makes the video again",
    responses=with_status_link(answers(SettingsDocument, 404)),
    openapi_extra=curl("/v1/tasks/ball/settings"),
)
async def task_settings(task_id: TaskInPath, service: Service, caller: Calling) -> Response:
    """Answer with the fields of a submit that were asked for or decided, the seed among them."""
    task = await service.task(caller, task_id)
    document: SettingsDocument = {
        "settings": Earlier.of_task(task).fields,
        "inputs": list(input_keys(task.spec)),
    }
    return JsonAnswer(document)


@router.get(
    "/v1/tasks/{task_id}/input",
    summary="A picture or video that a task is made from",
    responses=picture_answers(404, media_type="image/png"),
    response_class=Response,
)
async def task_input(
    task_id: TaskInPath,
    request: Request,
    service: Service,
    caller: Calling,
    field: Annotated[
        str, Query(description="one of the status's `inputs`", examples=["image_path"])
    ] = "image_path",
) -> Response:
    """Send a picture as PNG, a video as it is stored."""
    task = await service.task(caller, task_id)
    key = input_keys(task.spec).get(field)
    if key is None:
        raise FileNotFound("The task has no such input; its status lists those that it has.")
    media_type = "application/octet-stream" if field in CLIPS else "image/png"
    return send_tagged(request, await service.input(key), media_type)
