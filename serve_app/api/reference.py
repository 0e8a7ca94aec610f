"""The API reference: every route with what it takes, its answers and an example, from the OpenAPI document.

``wan-serve api`` prints it.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serve_app.api.application import published_document
from serve_app.api.http.api_document import REASONS
from serve_app.api.http.examples import CURL
from serve_app.api.http.request_model import allowed

COMMAND = "wan-serve api --markdown > docs/api.md"
"""The command that generates the page."""

_Object = Mapping[str, Any]

_SURFACES: Mapping[str, tuple[str, str]] = {
    "tasks": ("Tasks", "The native API: videos are submitted, followed and fetched as tasks."),
    "files": ("Files", "Finished videos by the path that a status names."),
    "service": ("Service", "What is served, and how it is."),
    "openai": ("OpenAI API", "The shape of OpenAI's videos API; [openai.md](openai.md) says more."),
    "lightx2v": (
        "LightX2V API",
        "LightX2V's task API, below a base URL of its own; the local API is there too.",
    ),
    "local": (
        "Local API",
        "LightX2V's local API. Every answer is 200, except for a field error and a body that is too large.",
    ),
}
"""Headings and first sentences of the tags, in the order of the page."""

_FIRST = (
    "submit",
    "submit_form",
    "again",
    "status",
    "task_events",
    "preview",
    "result",
    "last_frame",
    "cancel",
)
"""Operations that their section begins with, by id."""

_INTRODUCTION = f"""# HTTP API

Every route: what it takes, what it answers with, and for the main ones an example, which follow one another.
[api-guide.md](api-guide.md) tells how the routes work together.

`/docs` of a running service shows the same and sends requests from the browser; `/openapi.json` is the same
for programs. A path is served with and without a slash at its end. What is not sent is the model's own, which
`GET /v1/service/metadata` lists. Answers are JSON documents, described [at the end](#documents), or files.

Generated: `{COMMAND}`"""

_REFUSALS = """A refusal is a [Refusal](#refusal), on the OpenAI API's paths an [ErrorBody](#errorbody).
Besides those listed, each route may give a 401, where the service has API keys and none of them was sent, and
a 403, to a host name or a web page that is not this service's. [The guide](api-guide.md#refusals) lists the
codes."""

_COLUMNS = 118
_IS_REQUIRED = "x-required"
"""Mark of a field while bodies are compared."""
_ALIKE = 10
"""Fields that two requests must share for the second to be told by its differences."""


def as_json() -> str:
    """Return the OpenAPI document as text."""
    return json.dumps(published_document(), indent=2, ensure_ascii=False)


def as_markdown() -> str:
    """Return the reference as the page ``docs/api.md``."""
    document = published_document()
    lines, bodies = [_INTRODUCTION], _Bodies()
    for tag, (heading, sentence) in _SURFACES.items():
        lines += ["", f"## {heading}", "", sentence]
        for method, path, operation in _operations(document, tag):
            lines += ["", *_operation(method, path, operation, bodies)]
    lines += ["", "## Refusals", "", _REFUSALS, "", "| Status | |", "|---|---|"]
    lines += [_row(str(status), _sentence(reason)) for status, reason in REASONS.items()]
    lines += ["", "## Documents"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += ["", f"### {name}", "", *_about(schema), *_fields(schema["properties"], ())]
    return "\n".join(lines)


class _Bodies:
    """The tables of request fields: one that is mostly like an earlier one tells the differences alone."""

    def __init__(self) -> None:
        self._told: dict[str, _Object] = {}

    def table(self, heading: str, media_type: str, schema: _Object) -> Iterator[str]:
        """Format the fields of a body of the route with this heading."""
        required = schema.get("required", ())
        fields = {
            name: {**field, _IS_REQUIRED: name in required} for name, field in schema["properties"].items()
        }
        told = [
            (self._shared(fields, other), name)
            for name, other in self._told.items()
            if other.keys() <= fields.keys()
        ]
        shared, like = max(told, key=lambda each: len(each[0]), default=((), ""))
        own = {name: field for name, field in fields.items() if name not in shared}
        if len(shared) < _ALIKE:
            self._told.setdefault(heading, fields)
            yield from ("", f"Body: `{media_type}`", "", *_fields(fields, required, True))
            return
        anchor = "".join(
            letter for letter in like.lower().replace(" ", "-") if letter.isalnum() or letter == "-"
        )
        body = f"Body: `{media_type}`, with the fields of [{like}](#{anchor})"
        yield from ("", _wrapped(body + (" and these:" if own else ".")))
        if own:
            yield from ("", *_fields(own, required, True))

    @staticmethod
    def _shared(fields: _Object, others: _Object) -> Sequence[str]:
        """Return the names of the fields that two requests take alike."""
        alike = fields.keys() & others.keys()
        return [name for name in alike if _kind(fields[name]) == _kind(others[name])]


def _kind(schema: _Object) -> tuple[str, str]:
    return _takes(schema), _default(schema, schema[_IS_REQUIRED])


def _operations(document: _Object, tag: str) -> Sequence[tuple[str, str, _Object]]:
    """Return method, path and description of a section's operations, its main ones first."""
    found = [
        (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        # The local API is below LightX2V's base URL once more.
        if operation["tags"][-1] == tag and not (tag == "local" and path.startswith("/lightx2v"))
    ]
    return sorted(found, key=lambda each: _rank(each[2]["operationId"]))


def _rank(operation_id: str) -> int:
    return _FIRST.index(operation_id) if operation_id in _FIRST else len(_FIRST)


def _operation(method: str, path: str, operation: _Object, bodies: _Bodies) -> Iterator[str]:
    heading = operation["summary"]
    yield from (f"### {heading}", "", f"`{method} {path}`", "", operation["description"])
    for sample in operation.get(CURL, ()):
        yield from ("", "```bash", sample["source"], "```")
    if "parameters" in operation:
        yield ""
        yield from _parameters(operation["parameters"])
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        yield from bodies.table(heading, media_type, body["schema"])
    yield from ("", _answers(operation["responses"]))


def _parameters(parameters: Sequence[_Object]) -> Iterator[str]:
    yield from ("| Parameter | In | Takes | Default | |", "|---|---|---|---|---|")
    for found in parameters:
        schema, about = found["schema"], found.get("description") or found["schema"].get("description", "")
        cells = (
            f"`{found['name']}`",
            found["in"],
            _takes(schema),
            _default(schema, found["required"]),
            about,
        )
        yield _row(*cells[:-1], _sentence(cells[-1]))


def _fields(fields: _Object, required: Sequence[str], with_default: bool = False) -> Iterator[str]:
    """Format a table of fields: of a request with their defaults, of a document without."""
    if with_default:
        yield from ("| Field | Takes | Default | |", "|---|---|---|---|")
    else:
        yield from ("| Field | | |", "|---|---|---|")
    for name, schema in fields.items():
        default = (_default(schema, name in required),) if with_default else ()
        yield _row(f"`{name}`", _takes(schema), *default, _sentence(schema.get("description", "")))


def _answers(responses: _Object) -> str:
    """Tell what each answer holds, and list the refusals."""
    held: dict[str, list[str]] = {}
    for status, response in sorted(responses.items()):
        if int(status) < 400:
            held.setdefault(_contents(response) or response["description"], []).append(status)
    given = [f"{' or '.join(statuses)} {what}" for what, statuses in held.items()]
    refused = [status for status in sorted(responses) if int(status) >= 400 and status != "401"]
    return _wrapped(f"Answers: {'; '.join(given)}. Refused with {', '.join(refused)}.")


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False))


def _contents(response: _Object) -> str:
    return " or ".join(
        _takes(content["schema"]) if media_type == "application/json" else f"`{media_type}`"
        for media_type, content in response.get("content", {}).items()
    )


def _about(schema: _Object) -> Sequence[str]:
    text = " ".join(schema.get("description", "").split())
    return [_wrapped(text), ""] if text else []


def _takes(schema: _Object) -> str:
    """Describe in words what a field holds, from its JSON schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_takes(kind) for kind in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " · ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(_takes({**schema, "type": one}) for one in kind)
    if schema.get("format") == "binary":
        return "a file"
    if kind == "array":
        return f"a list of {_several(schema['items'])}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"an object of {_takes(inner)} by name" if isinstance(inner, dict) else "an object"
    return "null" if kind == "null" else allowed(schema)


def _several(schema: _Object) -> str:
    if "$ref" in schema:
        return _takes(schema)
    if isinstance(kind := schema.get("type"), list):
        return " or ".join(_several({**schema, "type": one}) for one in kind)
    return "objects" if kind == "object" else f"{_takes(schema).removeprefix('a ')}s"


def _default(schema: _Object, is_required: bool) -> str:
    if is_required:
        return "required"
    default = schema.get("default")
    return "" if default in (None, "") else f"`{json.dumps(default)}`"


def _sentence(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
