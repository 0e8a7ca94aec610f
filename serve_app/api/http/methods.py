"""HTTP methods of each path: HEAD wherever GET is served, OPTIONS everywhere, 405 for the rest."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from re import Pattern
from typing import Any

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.http.refusals import refused

_CHANGES = "x-changes-tasks"

CHANGING_GET: Mapping[str, Any] = {_CHANGES: True}
"""``openapi_extra`` of a GET route with side effects, which rejects HEAD, since link checkers send it."""


_IS_HEAD = "wan_serve.is_head"


def is_head(request: Request) -> bool:
    """Return whether nothing but the headers of the answer to a request will be sent."""
    return _IS_HEAD in request.scope


class _HeadSent(Exception):
    """Internal signal that stops a handler once the response headers of a HEAD request are sent."""


class Methods:
    """Middleware that serves HEAD through the GET route, OPTIONS with ``Allow``, and 405 for other methods.

    Added as the innermost middleware, so that authentication applies to OPTIONS and HEAD as well.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        """``routes``: the application's, read when the middleware stack is built at the first request."""
        self._app = app
        self._table = [(_pattern(route), _taken(route)) for route in iter_route_contexts(routes)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request according to its method."""
        allowed = self._allowed(scope) if scope["type"] == "http" else frozenset()
        if not allowed:  # no path of ours: the router says so
            await self._app(scope, receive, send)
            return
        allow = {"Allow": ", ".join(sorted(allowed))}
        if scope["method"] not in allowed:
            detail = f"This path does not take that method; it takes {allow['Allow']}."
            await refused(405, detail, "method_not_allowed", headers=allow)(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=allow)(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b""})
                raise _HeadSent
            await send(message)

        with suppress(_HeadSent):
            await self._app({**scope, "method": "GET", _IS_HEAD: True}, receive, send_head)

    def _allowed(self, scope: Scope) -> frozenset[str]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return frozenset().union(*(methods for pattern, methods in self._table if pattern.match(path)))


def changing_gets(routes: Sequence[BaseRoute]) -> Sequence[Pattern[str]]:
    """Return the paths of the GET routes that are marked with ``CHANGING_GET``."""
    return [_pattern(route) for route in iter_route_contexts(routes) if _CHANGES in _extra(route)]


def _extra(route: RouteContext) -> Mapping[str, Any]:
    return getattr(route, "openapi_extra", None) or {}


def _pattern(route: RouteContext) -> Pattern[str]:
    path = route.path or "/"
    is_mount = route.methods is None
    return compile_path(f"{path}/{{path:path}}" if is_mount else path)[0]


def _taken(route: RouteContext) -> frozenset[str]:
    methods = {"GET"} if route.methods is None else set(route.methods)  # what is mounted are files
    if "GET" in methods and _CHANGES not in _extra(route):
        methods.add("HEAD")
    return frozenset(methods | {"OPTIONS"})
