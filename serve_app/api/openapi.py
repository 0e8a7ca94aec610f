"""What the OpenAPI document says of bodies and answers: the handlers read and write them by themselves."""

from collections.abc import Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict

from serve_app.api.request_model import RequestModel

_REASONS: Mapping[int, str] = {
    400: "The image cannot be decoded",
    403: "A path leads outside the folders it may name",
    404: "Nothing of that name",
    409: "The state or the id of the task does not allow it",
    413: "The body or the image is too large",
    416: "The range lies outside the file",
    422: "A field has a value that cannot be taken; `field` names it",
    429: "The queue is full; `Retry-After` says in how many seconds to try again",
    503: "No replica can take work",
    507: "The disk is low",
}


class Refusal(TypedDict):
    """Every answer that is not a success: a sentence for people and a code for programs."""

    detail: str
    code: str
    field: NotRequired[str]


def answers(body: Any, *refusals: int) -> dict[int | str, dict[str, Any]]:
    """The documented answers of a route: 200 with ``body``, and the refusals by status."""
    return {200: {"model": body, "description": "Done"}, **_refused(refusals)}


def video_answers(*refusals: int) -> dict[int | str, dict[str, Any]]:
    """The documented answers of a route that sends a video."""
    content = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"content": content, "description": "The whole video"},
        206: {"content": content, "description": "The ranges that were asked for"},
        **_refused(refusals),
    }


def json_body(model: type[RequestModel]) -> dict[str, Any]:
    """The JSON body that a route reads as ``model``."""
    return _body("application/json", model.model_json_schema())


def form_body(model: type[RequestModel], files: Mapping[str, str]) -> dict[str, Any]:
    """The form that a route reads as ``model``, with ``files``: each upload and the field it stands for."""
    schema = model.model_json_schema()
    uploads = {
        name: {
            "type": "string",
            "format": "binary",
            "description": f"An image file, in place of `{instead_of}`.",
        }
        for name, instead_of in files.items()
    }
    return _body("multipart/form-data", {**schema, "properties": {**schema["properties"], **uploads}})


def _body(content_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {content_type: {"schema": schema}}}}


def _refused(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal, "description": _REASONS[status]} for status in statuses}
