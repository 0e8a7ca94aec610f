"""Refusals in the shape of OpenAI's API: ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.api.http.api_document import answers
from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.refusals import Reason, Shape

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_LONGEST_WAIT_S = 120
"""OpenAI's clients wait no longer than this before they try again."""
_PASSING = frozenset({429, 503})
"""Statuses of states that pass by themselves; OpenAI's clients also try again after a 409 and any 5xx."""


class ErrorObject(TypedDict):
    """Reason of a refusal: a sentence, a kind, the field that it is about, and a stable word for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """Error response."""

    error: ErrorObject


def openai_refusal(reason: Reason) -> Response:
    """Return the response for a refusal; ``x-should-retry`` tells clients whether another try can succeed."""
    body: ErrorBody = {
        "error": {
            "message": reason.detail,
            "type": _TYPES.get(
                reason.status, "invalid_request_error" if reason.status < 500 else "server_error"
            ),
            "param": reason.field,
            "code": reason.code,
        }
    }
    wait_s = int(reason.headers.get("Retry-After", 1))
    may_retry = reason.status in _PASSING and wait_s <= _LONGEST_WAIT_S
    headers = {**reason.headers, "x-should-retry": "true" if may_retry else "false"}
    return JsonAnswer(body, status_code=reason.status, headers=headers)


OPENAI_SHAPES: Mapping[str, Shape] = {"/v1/videos": openai_refusal, "/v1/models": openai_refusal}
"""The shape of refusals on this surface's paths."""


def openai_answers(body: Any, *refusals: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route of this surface.

    A foreign host is refused on all of them, so each shows the shape of the surface's refusals.
    """
    return answers(body, *{403, *refusals}, refusal=ErrorBody)
