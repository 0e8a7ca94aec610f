"""Spans of the requests that change something, in the trace that the client names by ``traceparent``."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.tracing.tracer import REQUEST, Tracer

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_SERVER_FAULT = 500


class RequestSpans:
    """Middleware that makes a request's span the one that its task belongs to."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        method = str(scope["method"])
        parent = Headers(scope=scope).get("traceparent")
        span = self._tracer.begin(method, parent, {"http.request.method": method}, serves=True)
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = REQUEST.set(span)
        try:
            await self._app(scope, receive, noted)
        finally:
            REQUEST.reset(token)
            if status:
                span.note({"http.response.status_code": status})
            span.end(str(status) if status >= _SERVER_FAULT or not status else None)
