"""A small surface with words of its own: all that a new dialect of the API takes."""

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from serve_app.api.http.api_document import json_body
from serve_app.api.http.auth import Calling
from serve_app.api.http.body import read_object
from serve_app.api.http.parameters import Service
from serve_app.api.http.request_model import RequestModel, Text
from serve_app.api.http.video_fields import Prompt, Seconds, Size, Unset, parse_size
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import VideoOrder

WORDS = FieldWords(
    {"prompt": "text", "duration_s": "seconds", "width": "canvas", "height": "canvas", "first_frame": "start"}
)


class ToyRequest(RequestModel):
    """A video to make."""

    text: Prompt = Field(examples=["a cat"])
    seconds: Seconds | Unset = None
    canvas: Size | Unset = None
    start: Text = ""


def toy_surface() -> APIRouter:
    """Return the toy's three routes."""
    router = APIRouter(prefix="/toy/videos")
    router.post("", openapi_extra=json_body(ToyRequest))(make)
    router.get("/{task_id}")(poll)
    router.delete("/{task_id}")(stop)
    return router


async def make(request: Request, service: Service, caller: Calling) -> Response:
    sent = ToyRequest.read_json(await read_object(request))
    width, height = parse_size(sent.canvas) if sent.canvas else (None, None)
    order = VideoOrder(
        prompt=sent.text,
        duration_s=sent.seconds,
        width=width,
        height=height,
        first_frame=sent.start or None,
        sent=sent.model_dump(exclude_unset=True),
    )
    submitted = await service.submit(caller, order, WORDS)
    return JSONResponse({"id": submitted.task.id, "waiting": submitted.queue.pending})


async def poll(task_id: str, service: Service, caller: Calling) -> Response:
    task = await service.task(caller, task_id)
    return JSONResponse({"id": task.id, "state": task.status.value, "percent": int(100 * task.progress)})


async def stop(task_id: str, service: Service, caller: Calling) -> Response:
    _, cancelled = await service.cancel(caller, task_id)
    return JSONResponse({"stopped": cancelled})
