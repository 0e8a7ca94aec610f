"""The local surface: LightX2V's ``/v1/local/video/generate`` in its words, always 200 but for field errors.

The service starts as many of these tasks as replicas are free and answers ``Service busy`` to the rest, so a
client that was written for one server per GPU keeps them all occupied through one URL.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from serve_app.api.http import api_document as openapi
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import read_object
from serve_app.api.http.request_model import WHOLE, RequestModel, Text
from serve_app.api.native.video_request import MAX_PROMPT_CHARS, Prompt, TaskId, VideoRequest, is_task_id
from serve_app.errors import InvalidField, ServiceError, TaskNotFound
from serve_app.submission.submission import Submission
from serve_app.submission.task_service import TaskService
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import FINAL, Status

_ALL_TASKS = 1000
_SAVE_FIELD = "save_video_path"


class LocalRequest(RequestModel):
    """A video to make, as LightX2V's `post.py` sends it."""

    task_id: TaskId = Field(description="The task's id.", examples=["cat-1"])
    task_id_must_unique: bool = Field(
        default=False, description="Refuse an id that is taken; else the newer task replaces the older one."
    )
    prompt: Prompt = Field(description="What the video shows.", examples=["Two cats in boxing gear"])
    negative_prompt: Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)] = Field(
        default="", description="What the video should not show; empty: the model's own."
    )
    image_path: Text = Field(default="", description="The first frame; makes it image-to-video.")
    save_video_path: Annotated[Text, Field(max_length=1024)] = Field(
        description="Where the video goes: relative to the output root, or absolute below an output folder.",
        examples=["./output_t2v.mp4"],
    )
    num_fragments: Annotated[int, Field(ge=1, le=100), WHOLE] = Field(
        default=1, description="Consecutive fragments, each going on from the end of the one before."
    )
    use_prompt_enhancer: bool = Field(default=False, description="Refused when true: there is none.")


class TaskStatusRequest(RequestModel):
    """Which task is meant."""

    task_id: Annotated[Text, Field(max_length=1024)] = Field(description="The task's id.", examples=["cat-1"])


def local_router(service: TaskService) -> APIRouter:
    """The routes of the local surface."""
    router = APIRouter(prefix="/v1/local/video/generate", tags=["local"])
    documented = openapi.answers(dict[str, Any])

    @router.post(
        "",
        summary="Start a video if a replica is free",
        responses=openapi.answers(dict[str, Any], 422),
        openapi_extra=openapi.json_body(LocalRequest),
    )
    async def generate(request: Request, caller: Calling) -> Response:
        sent = LocalRequest.read_json(await read_object(request))
        try:
            return JSONResponse(await _generate(service, caller, sent))
        except InvalidField as error:
            if error.field != _SAVE_FIELD:
                raise
            return JSONResponse({"error": error.detail})
        except ServiceError as error:
            return JSONResponse({"error": error.detail})

    @router.get("/service_status", summary="Whether a replica is free", responses=documented)
    async def service_status(caller: Calling) -> Response:
        queue = await service.view.fresh()
        if queue.is_idle:
            return JSONResponse({"service_status": "idle"})
        return JSONResponse({"service_status": "busy", "task_id": queue.current(caller) or ""})

    @router.get("/get_all_tasks", summary="The ended tasks, at most the newest 1000", responses=documented)
    async def get_all_tasks(caller: Calling) -> Response:
        tasks = await service.store.list(caller, statuses=tuple(FINAL), limit=_ALL_TASKS)
        ended: dict[str, Any] = {}
        for task in tasks:  # newest first; to an admin, tasks of several owners can have one id
            ended.setdefault(task.id, _ended(task))
        return JSONResponse(ended)

    @router.post(
        "/task_status",
        summary="Whether a task is done",
        responses=openapi.answers(dict[str, Any], 422),
        openapi_extra=openapi.json_body(TaskStatusRequest),
    )
    async def task_status(request: Request, caller: Calling) -> Response:
        task_id = TaskStatusRequest.read_json(await read_object(request)).task_id
        try:
            task = await service.store.get(caller, task_id) if is_task_id(task_id) else None
        except TaskNotFound:
            task = None
        if task is None:
            return JSONResponse({"task_status": "not_found"})
        if not task.is_final:
            return JSONResponse({"task_status": "processing"})
        return JSONResponse({"task_status": "completed", **_ended(task)})

    @router.get("/stop_running_task", summary="Stop what is running", responses=documented)
    async def stop_running_task(caller: Calling) -> Response:
        stopped = list(await service.cancel_all(caller, Status.RUNNING))
        # This surface calls a task running from its submit on, also in the moment before a replica has it.
        for task in await service.store.list(caller, statuses=(Status.QUEUED,), limit=_ALL_TASKS):
            if _SAVE_FIELD in task.request:
                stopped += [task for task, cancelled in [await service.cancel(caller, task.id)] if cancelled]
        if not stopped:
            return JSONResponse({"stop_status": "do_nothing", "reason": "No running task found."})
        return JSONResponse({"stop_status": "success", "reason": "Task stopped successfully."})

    return router


async def _generate(service: TaskService, caller: Caller, sent: LocalRequest) -> dict[str, str]:
    if sent.use_prompt_enhancer:
        return {"error": "use_prompt_enhancer: there is no prompt enhancer; leave it out."}
    fields = {
        "task_id": sent.task_id,
        "prompt": sent.prompt,
        "negative_prompt": sent.negative_prompt or None,
        "image_path": sent.image_path,
        "save_result_path": sent.save_video_path or None,
        "num_fragments": sent.num_fragments,
    }
    submission = Submission(
        VideoRequest.read_json(fields), echo=sent.model_dump(mode="json"), save_field=_SAVE_FIELD
    )
    submitted = await service.submit_if_free(caller, submission, replace_same_id=not sent.task_id_must_unique)
    if submitted is None:
        return {"error": "Service busy"}
    return {
        "task_id": sent.task_id,
        "task_status": "processing",
        "save_video_path": sent.save_video_path or submitted.task.save_path,
    }


def _ended(task: Task) -> dict[str, Any]:
    """What an ended task came to."""
    began = {"message": dict(task.request), "start_time": _time(task.started_at or task.created_at)}
    if task.status is Status.SUCCEEDED:
        return {"success": True, **began, "completion_time": _time(task.finished_at or task.created_at)}
    if task.status is Status.CANCELLED:
        return {"success": False, **began, "error": "Task stopped by user"}
    return {"success": False, **began, "error": task.error.message if task.error else "Task failed"}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
