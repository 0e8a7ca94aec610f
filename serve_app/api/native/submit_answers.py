"""Answers to the submits of the native surface, at once or at the task's end."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from serve_app.api.http.api_document import answers
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.native.describe import describe
from serve_app.api.native.task_document import SubmitDocument, TaskDocument, submit_document
from serve_app.api.native.task_links import with_task_links
from serve_app.submission.submitted import Submitted
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=600,
        description="answer once the task has ended, at the latest after so many seconds",
        examples=[30],
    ),
]
"""Query parameter: how long to wait for the end of the task."""

SUBMIT_ANSWERS = with_task_links(
    {
        **answers(SubmitDocument | TaskDocument, 400, 403, 409, 413, 422, 429, 503, 507),
        202: {"model": TaskDocument, "description": "With `wait`: the task, which has not ended yet"},
    },
    "$response.body#/task_id",
    200,
    202,
)


async def submit_answer(
    service: TaskService, caller: Caller, submitted: Submitted, root_path: str, wait_s: float
) -> Response:
    """Answer with the stored task; with ``wait_s`` with its status at its end, or as it stands then."""
    if not wait_s:
        return JsonAnswer(submit_document(submitted.task, submitted.queue, is_new=submitted.is_new))
    task = await service.ended(caller, submitted.task, wait_s=wait_s)
    document = await describe(service, task, root_path)
    return JsonAnswer(document, status_code=200 if task.is_final else 202)
