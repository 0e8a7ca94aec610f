"""Cross-origin resource sharing (CORS): pages of chosen sites may use the service from a browser."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SENT = ("Authorization", "X-API-Key", "Idempotency-Key", "Content-Type", "Range", "If-None-Match")
_READ = ("Retry-After", "Content-Disposition", "Content-Range", "Accept-Ranges", "ETag", "Location")


class Cors:
    """Middleware that answers preflights of the allowed origins and lets their pages read the responses.

    Nothing changes for any other origin: a browser then keeps the response from its page.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._shared = CORSMiddleware(
            app,
            allow_origins=tuple(origins),
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_READ,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self._origins:
            await self._app(scope, receive, send)
        elif Headers(scope=scope).get("origin") in self._origins:
            await self._shared(scope, receive, send)
        else:

            async def varied(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).add_vary_header("Origin")
                await send(message)

            await self._app(scope, receive, varied)
