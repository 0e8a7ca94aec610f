"""A follower of an event stream that comes back after each break, as a browser's ``EventSource`` does."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

_PAUSE_S = 0.2
_SILENCE_S = 20.0
"""A stream says something every 15 s; one that is silent for longer has lost its service."""


async def follow(
    http: httpx.AsyncClient, url: Callable[[], str], seen: Callable[[Mapping[str, Any]], None]
) -> None:
    """Tell ``seen`` the data of each event of a stream, until the service says that there is no more.

    ``url``: returns where the stream is now.
    """
    last = ""
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            async with http.stream("GET", url(), headers=headers, timeout=_SILENCE_S) as answer:
                if answer.status_code == 204:
                    return
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    fields: dict[str, str] = {}
                    async for line in answer.aiter_lines():
                        name, _, value = line.partition(": ")
                        if line:
                            fields[name] = value
                        elif "data" in fields:  # an event counts once it is whole
                            last = fields["id"]
                            seen(json.loads(fields["data"]))
                        if not line:
                            fields = {}
        except httpx.TransportError:
            pass  # a part of the service was killed
        await asyncio.sleep(_PAUSE_S)
