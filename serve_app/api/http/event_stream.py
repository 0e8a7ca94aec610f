"""Server-sent events, as the HTML standard defines them."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

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


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Answer with these events, and with the time after which a client that lost them asks again."""

    async def stream() -> AsyncIterator[str]:
        yield f"retry: {_RETRY_MS}\n\n"
        async for each in events:
            yield each

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
