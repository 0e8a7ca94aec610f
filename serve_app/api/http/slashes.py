"""Trailing slash handling: each path is served with and without it."""

from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """Middleware that strips the slash before routing; a redirect would lose a POST's body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request by its path without the slash."""
        if scope["type"] == "http" and scope["path"].endswith("/"):
            root_path = scope.get("root_path", "")
            bare = scope["path"].rstrip("/")
            scope = {**scope, "path": bare if bare != root_path else f"{root_path}/"}
        await self._app(scope, receive, send)
