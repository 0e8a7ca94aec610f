"""Error responses: ``{"detail", "code"}``, with ``field`` for a bad field, or in the shape of a surface."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.http.json_answer import JsonAnswer
from serve_app.api.http.noted_send import NotedSend
from serve_app.errors import (
    Draining,
    FfmpegKilled,
    InvalidField,
    ServiceError,
    StoreUnavailable,
    TooManyRequests,
    TooSlow,
    Unauthorized,
)

_logger = logging.getLogger("ray.serve")

_SHAPE = "wan_serve.refusal_shape"
_HTTP_CODES: Mapping[int, tuple[str, str]] = {
    404: ("There is no such path; /docs lists them all.", "not_found"),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """The reason of a refusal: its HTTP status, a sentence for people and a stable word for programs."""

    status: int
    detail: str
    code: str
    field: str | None
    """Name of the field that cannot be taken; None where it is not about one."""
    headers: Mapping[str, str]


REFUSED = (ServiceError, RequestValidationError, HTTPException)
"""Errors that are answered with a refusal."""

Shape: TypeAlias = Callable[[Reason], Response]
"""A surface's own form of a refusal."""


class RefusalResponse(JsonAnswer):
    """A refusal, which takes the shape that its path has when it is sent."""

    def __init__(self, reason: Reason) -> None:
        body = {"detail": reason.detail, "code": reason.code}
        body |= {} if reason.field is None else {"field": reason.field}
        super().__init__(body, status_code=reason.status, headers=reason.headers)
        self._reason = reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the refusal."""
        shape: Shape | None = scope.get(_SHAPE)
        if shape is None:
            await super().__call__(scope, receive, send)
        else:
            await shape(self._reason)(scope, receive, send)


class RefusalShapes:
    """Middleware that has the refusals on some paths sent in other shapes, also on paths below them."""

    def __init__(self, app: ASGIApp, shapes: Mapping[str, Shape]) -> None:
        self._app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = f"{scope.get('path', '').removeprefix(scope.get('root_path', ''))}/"
        shape = next((shape for above, shape in self._shapes.items() if path.startswith(f"{above}/")), None)
        await self._app(scope if shape is None else {**scope, _SHAPE: shape}, receive, send)


def refusal(error: ServiceError) -> RefusalResponse:
    """Return the HTTP response for a ``ServiceError``."""
    headers = {}
    if isinstance(error, TooManyRequests | Draining | FfmpegKilled | StoreUnavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, TooSlow):
        headers["Connection"] = "close"  # the rest of the body is not waited for
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    field = error.field if isinstance(error, InvalidField) else None
    return refused(error.status, error.detail, error.code, field=field, headers=headers)


def refused(
    status: int, detail: str, code: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> RefusalResponse:
    """Return an error response."""
    return RefusalResponse(Reason(status, detail, code, field, headers or {}))


def refusal_of(error: Exception) -> RefusalResponse:
    """Return the HTTP response for one of the errors in ``REFUSED``; any other one is raised."""
    if isinstance(error, ServiceError):
        return refusal(error)
    if isinstance(error, RequestValidationError):
        finding = error.errors()[0]
        field = str(finding["loc"][-1])
        message = str(finding["msg"])
        return refusal(InvalidField(field, f"{field}: {message[0].lower()}{message[1:]}."))
    if isinstance(error, HTTPException):
        detail, code = _HTTP_CODES.get(error.status_code, (str(error.detail), "bad_request"))
        return refused(error.status_code, detail, code, headers=error.headers)
    raise error


def install_refusals(api: FastAPI) -> None:
    """Install the exception handlers of the application's router."""

    async def handle(_request: Request, error: Exception) -> Response:
        return refusal_of(error)

    for refused_error in REFUSED:
        api.add_exception_handler(refused_error, handle)


class CrashGuard:
    """Middleware that answers 500 for an unhandled exception; the stack trace goes only to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Re-raises an exception only if the response has already started."""
        answer = NotedSend(send)
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass  # there is nobody to answer
        except Exception:
            if scope["type"] != "http" or answer.has_begun:
                raise
            _logger.exception("%s %s failed", scope["method"], scope["path"])
            await refused(500, "Internal error", "internal")(scope, receive, send)
