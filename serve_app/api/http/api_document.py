"""Request bodies and responses of the OpenAPI document, since handlers parse and serialise them directly."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NotRequired

from fastapi import FastAPI
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from serve_app.api.http.described import described
from serve_app.api.http.request_model import RequestModel, allowed
from serve_app.tasks.video_output import VideoFormat

REASONS: Mapping[int, str] = {
    400: "The image cannot be decoded",
    401: "The request carries no known API key",
    403: "A path leads outside the folders it may name, or a host name or a web page is not this service's",
    404: "Nothing of that name",
    409: "The state or the id of the task does not allow it",
    413: "The body or the image is too large",
    416: "The range lies outside the file",
    422: "A field has a value that cannot be taken; `field` names it",
    429: "Too many tasks wait, of all or of this key; `Retry-After` is seconds until it is worth another try",
    503: "No replica can take work, or the service is shutting down",
    507: "The disk is low",
}
"""Why a request is refused, by status."""


_SCHEMAS = "#/components/schemas/{model}"
"""Where a document has the schemas of others, by their names."""


@described
class Refusal(TypedDict):
    """Error response."""

    detail: str
    """A sentence for people."""
    code: str
    """A stable word for programs."""
    field: NotRequired[str]
    """The field that the refusal is about, if it is about one."""


def answers(body: Any, *refusals: int, refusal: Any = Refusal) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route: 200 with ``body``, and the refusals by status.

    ``refusal``: the document that the surface refuses with.
    """
    return {200: {"model": body, "description": "Done"}, **_refused(refusals, refusal)}


def video_answers(
    *refusals: int, refusal: Any = Refusal, media_types: Sequence[str] = ()
) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that sends a video; ``media_types``: of what it also sends."""
    sent = (*(form.media_type for form in VideoFormat), *media_types)
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in sent}
    return {
        200: {"content": content, "description": "The whole file"},
        206: {"content": content, "description": "The ranges that were asked for"},
        304: {"description": "The client has this file already, by its `ETag`"},
        **_refused(refusals, refusal),
    }


def picture_answers(*refusals: int, media_type: str = "image/webp") -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that sends a picture."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"content": content, "description": "The newest picture"},
        304: {"description": "The client has this picture already, by its `ETag`"},
        **_refused(refusals),
    }


def json_body(model: type[RequestModel]) -> dict[str, Any]:
    """Document the JSON body that a route reads as ``model``."""
    return _body("application/json", model.model_json_schema())


def form_body(
    model: type[RequestModel], files: Mapping[str, str], lists: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Document the form that a route reads as ``model``; ``files``: each upload and the field it replaces.

    ``lists``: those that may be there several times.
    """
    schema = model.model_json_schema()
    uploads: dict[str, dict[str, Any]] = {
        name: {
            "type": "string",
            "format": "binary",
            "description": f"A file, in place of `{instead_of}`.",
        }
        for name, instead_of in files.items()
    }
    for name, instead_of in lists.items():
        uploads[name] = {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": f"Files, each in a part of its own, in place of `{instead_of}`.",
        }
    required = schema["required"]
    fields = {name: _form_field(field, name in required) for name, field in schema["properties"].items()}
    for name in uploads.keys() & fields.keys():  # it takes text, too
        uploads[name]["examples"] = fields[name]["examples"]
    return _body("multipart/form-data", {**schema, "properties": {**fields, **uploads}})


def either_body(
    model: type[RequestModel], files: Mapping[str, str], lists: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Document a body that a route reads as ``model``, sent as JSON or as a form."""
    json_content = json_body(model)["requestBody"]["content"]
    form_content = form_body(model, files, lists)["requestBody"]["content"]
    return {"requestBody": {"required": True, "content": {**json_content, **form_content}}}


def finish_document(api: FastAPI, finishers: Iterable[Callable[[dict[str, Any]], None]]) -> None:
    """Have these functions add to the application's document once it is asked for."""
    draw_up = api.openapi

    def openapi() -> dict[str, Any]:
        is_new = api.openapi_schema is None
        document = draw_up()  # which FastAPI keeps
        for finish in finishers if is_new else ():
            finish(document)
        return document

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's way to extend the document


def add_refusals(document: dict[str, Any], refusals: Collection[Any]) -> None:
    """Add the schemas of these refusals to a finished document, of those that an answer refers to."""
    told = str(document["paths"])
    shown = [refusal for refusal in refusals if _SCHEMAS.format(model=refusal.__name__) in told]
    adapters: Any = [(refusal, "serialization", TypeAdapter(refusal)) for refusal in shown]
    _, added = TypeAdapter.json_schemas(adapters, ref_template=_SCHEMAS)
    components = document.setdefault("components", {})
    schemas = {**components.get("schemas", {}), **added.get("$defs", {})}
    components["schemas"] = dict(sorted(schemas.items()))


def add_site_refusals(document: dict[str, Any]) -> None:
    """Add the refusal of foreign hosts and of other sites' pages to a finished document, on all paths."""
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            responses.setdefault("403", _refused_as_others(responses, 403))


def drop_validation_errors(document: dict[str, Any]) -> None:
    """Take FastAPI's own description of a 422 out of a finished document: it is of no answer that is sent."""
    for operations in document["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def add_keys(document: dict[str, Any], is_open: Callable[[str], bool]) -> None:
    """Add the API key security scheme to a finished document, on all paths except the open ones."""
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        if not is_open(path):
            for operation in operations.values():
                operation["security"] = [{"bearer": []}, {"header": []}]
                operation["responses"]["401"] = _refused_as_others(operation["responses"], 401)


def _form_field(field: Mapping[str, Any], required: bool) -> dict[str, Any]:
    # Of a form, Swagger UI shows no exclusive bounds and no examples, but descriptions. It fills each
    # field with the first example: what need not be sent begins empty, which is taken as not sent.
    example = field["examples"][0]
    text = example if isinstance(example, str) else json.dumps(example)
    takes = f" Takes {allowed(field)}." if "exclusiveMinimum" in field else ""
    shown = f"`{text}`" if text else "empty"
    empty = [] if field["type"] == "array" else ""
    return {
        **field,
        "description": f"{field['description']}{takes} Example: {shown}",
        "examples": [example] if required else [empty, example],
    }


def _body(content_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    # What is required and no more: a request that any service takes, whichever models it serves.
    example = {name: schema["properties"][name]["examples"][0] for name in schema["required"]}
    content = {content_type: {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _refused(statuses: tuple[int, ...], refusal: Any = Refusal) -> dict[int | str, dict[str, Any]]:
    # A reference, not a ``model``: of that FastAPI would make a schema for each status of each route.
    content = {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=refusal.__name__)}}}
    return {status: {"description": REASONS[status], "content": content} for status in statuses}


def _refused_as_others(responses: Mapping[str, Any], status: int) -> Mapping[str, Any]:
    """Return the refusal of that status, in the shape of the refusals among an operation's responses."""
    for other, response in responses.items():
        if other in map(str, REASONS):
            return {"description": REASONS[status], "content": response["content"]}
    return _refused((status,))[status]
