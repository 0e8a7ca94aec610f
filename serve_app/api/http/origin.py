"""Origins of requests, for the audit log."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.tasks.acts import ORIGIN, Origin


class Origins:
    """Middleware that notes where each request comes from."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            address = scope["client"][0] if scope.get("client") else ""
            ORIGIN.set(Origin(address, Headers(scope=scope).get("x-forwarded-for", "")))
        await self._app(scope, receive, send)
