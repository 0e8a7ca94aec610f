"""HTTP methods of each path: HEAD wherever GET is served, OPTIONS everywhere, 405 for the rest."""

from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.http.refusals import refused
from serve_app.api.http.route_table import RouteTable

_IS_HEAD = "wan_serve.is_head"


def is_head(request: Request) -> bool:
    """Return whether nothing but the headers of the answer to a request will be sent."""
    return _IS_HEAD in request.scope


class _HeadSent(Exception):
    """Internal signal that stops a handler once the response headers of a HEAD request are sent."""


class Methods:
    """Middleware that serves HEAD through the GET route, OPTIONS with ``Allow``, and 405 for other methods.

    Added as one of the innermost middlewares, so that authentication applies to OPTIONS and HEAD as well.
    """

    def __init__(self, app: ASGIApp, table: RouteTable) -> None:
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request according to its method."""
        allowed = self._table.at(scope).methods if scope["type"] == "http" else frozenset()
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
