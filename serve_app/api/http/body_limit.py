"""Limits of request bodies: how large they are, and how long they take to arrive."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.http.refusals import refusal
from serve_app.errors import TooLarge, TooSlow

_GRACE_S = 30.0
"""How long a body may take in any case."""
_LEAST_BYTES_PER_S = 4000
"""How fast it has to come after that, over the whole time: half as fast as by a telephone line."""


class BodyLimit:
    """Middleware that refuses bodies above ``max_bytes``, by their stated length and again while reading, and
    those that drip in.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "")
        if stated.isdecimal() and (len(stated) > 18 or int(stated) > self._max_bytes):
            await refusal(self._too_large())(scope, receive, send)
            return
        began, received, is_whole = time.monotonic(), 0, False

        async def limited() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what comes then is the client's leaving, whenever that is
                return await receive()
            left_s = began + _GRACE_S + received / _LEAST_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError:
                raise TooSlow("The request body takes too long to arrive; send it again, faster.") from None
            is_whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request body is over the limit of {self._max_bytes} bytes.")
