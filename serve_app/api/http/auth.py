"""API key authentication, applied to each request before routing."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.http.refusals import refusal
from serve_app.config.key_settings import KeySettings
from serve_app.errors import Unauthorized
from serve_app.tasks.caller import EVERYONE, Caller

_CALLER = "wan_serve.caller"
_OPEN_PATHS = frozenset({"/", "/health", "/ready", "/docs", "/docs/start.js", "/openapi.json"})
_OPEN_FOLDERS = ("/docs/assets/", "/page/")


def is_open(path: str) -> bool:
    """Return whether the path is served without an API key."""
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


class Keyring:
    """The configured API keys, kept as SHA-256 hashes."""

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        self._callers = [(bytes.fromhex(key.sha256), _caller(key)) for key in keys]

    def caller(self, presented: bytes) -> Caller | None:
        """Return the caller that owns the key, None for an unknown key. Compares in constant time."""
        if not presented:
            return None
        digest = hashlib.sha256(presented).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


class KeyGate:
    """Middleware that admits requests with a known key and hands their ``Caller`` to the routes.

    Without configured keys every request is admitted. A path that is not listed above as open needs a key,
    so a route that is added later is not open by mistake.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[KeySettings]) -> None:
        self._app = app
        self._keyring = Keyring(keys) if keys else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = EVERYONE if self._keyring is None else self._keyring.caller(_presented(scope))
        if caller is not None:
            await self._app({**scope, _CALLER: caller}, receive, send)
        elif is_open(scope["path"].removeprefix(scope.get("root_path", ""))):
            await self._app(scope, receive, send)
        else:
            answer = refusal(Unauthorized("A known API key is required: Authorization: Bearer KEY."))
            await answer(scope, receive, send)


async def _caller_of(request: Request) -> Caller:
    caller: Caller = request.scope[_CALLER]
    return caller


Calling = Annotated[Caller, Depends(_caller_of)]
"""Route parameter: the caller that owns the request's API key."""


def _presented(scope: Scope) -> bytes:
    """Return the API key sent in the request's headers, empty if there is none."""
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    text = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return text.encode("latin-1")


def _caller(key: KeySettings) -> Caller:
    return Caller(
        key.name,
        is_admin=key.admin,
        max_queued=key.max_queued,
        max_running=key.max_running,
        max_priority=key.max_priority,
    )
