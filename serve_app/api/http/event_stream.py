"""Server-sent events, as the HTML standard defines them."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

PING_S = 15.0
"""Seconds after which a comment is sent where there is nothing to tell, so that no proxy gives up."""
PING = ": still here\n\n"
_RETRY_MS = 2000

EVENT_STREAM: Mapping[str, Any] = {
    "description": "An event for each change; `id` is what a client sends as `Last-Event-ID` after a break",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
"""The documented answer of a route that streams events."""


def event(id: str, document: Mapping[str, Any]) -> str:
    """Return an event whose data is a JSON document."""
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return f"id: {id}\ndata: {data}\n\n"


class EventStreams:
    """The open event streams of one application, counted."""

    def __init__(self, on_change: Callable[[int], None]) -> None:
        """``on_change`` is called with the number of open streams whenever it changes."""
        self._on_change = on_change
        self._open = 0

    def answer(self, events: AsyncIterator[str]) -> StreamingResponse:
        """Answer with these events, and with the time after which a client that lost them asks again."""
        return _EventStream(events, self._count)

    def _count(self, change: int) -> None:
        self._open += change
        self._on_change(self._open)


class _EventStream(StreamingResponse):
    def __init__(self, events: AsyncIterator[str], count: Callable[[int], None]) -> None:
        async def stream() -> AsyncIterator[str]:
            yield f"retry: {_RETRY_MS}\n\n"
            async for each in events:
                yield each

        super().__init__(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; it is open until its client has gone or it has ended."""
        self._count(1)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._count(-1)
