"""A running service, reached over HTTP with the API key of one caller."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import httpx
from pydantic import BaseModel, ValidationError

from serve_app.mcp.order import NATIVE_NAMES, Order
from serve_app.mcp.video import Cancellation, Link, Video, VideoPage
from serve_app.submission.task_id import is_task_id

TIMEOUT_S = 30
"""The longest silence: a stream of events says something every 15 s."""

_MOST_BREAKS = 20
"""Breaks of a stream, one after the other, until the service counts as gone."""
_PAUSE_S = 1.0

_ARGUMENTS: Mapping[str, str] = {
    native: argument for argument, native in NATIVE_NAMES.items() if native != argument
}
"""The tools' arguments by the fields of the service that they are sent as, where those have other names."""
_NATIVE = re.compile(rf"\b({'|'.join(_ARGUMENTS)})\b")

_Document = TypeVar("_Document", bound=BaseModel)


class Refused(Exception):
    """A call that the service refused or could not take; its text is one sentence."""


@dataclass(frozen=True, slots=True)
class RunningService:
    """The service behind ``client``, whose base URL is the service's; ``key`` is the header that holds a key.

    Every call raises ``Refused`` with the service's own sentence.
    """

    client: httpx.AsyncClient
    key: Mapping[bytes, bytes]

    async def submit(self, order: Order) -> str:
        """Submit a video and return its task id."""
        response = await self._call("POST", "/v1/tasks/video", json=order.fields())
        return _read(_Submitted, response).task_id

    async def video(self, task_id: str) -> Video:
        """Return the video as it stands."""
        return _read(Video, await self._call("GET", f"{_path(task_id)}/status"))

    async def changes(self, task_id: str) -> AsyncGenerator[Video]:
        """Yield the video now and at each change, until it has ended or the service is away for long.

        A stream that breaks, as when a part of the service is replaced, is taken up again.
        """
        video: Video | None = None
        breaks = 0
        while breaks < _MOST_BREAKS:
            with suppress(httpx.TransportError):
                async with self.client.stream(
                    "GET", f"{_path(task_id)}/events", headers=self.key
                ) as response:
                    async for line in response.aiter_lines():
                        name, _, data = line.partition(":")
                        if name == "data":
                            breaks = 0
                            video = Video.model_validate_json(data)
                            yield video
            if video is None or video.has_ended:
                return
            breaks += 1
            await anyio.sleep(_PAUSE_S)

    async def videos(self, *, status: str, limit: int, after: str) -> VideoPage:
        """Return a page of the caller's videos."""
        asked = {"status": status, "limit": limit, "after": after}
        return _read(VideoPage, await self._call("GET", "/v1/tasks", params=asked))

    async def cancel(self, task_id: str) -> Cancellation:
        """Cancel a video."""
        return _read(Cancellation, await self._call("DELETE", _path(task_id)))

    async def link(self, task_id: str, *, last_frame: bool = False) -> Link:
        """Return where a video, or its last frame, is downloaded, once its first byte has come from there."""
        first_byte = {**self.key, b"range": b"bytes=0-0"}
        path = f"{_path(task_id)}/{'last_frame' if last_frame else 'result'}"
        response = await self._call("GET", path, headers=first_byte)
        return Link(url=str(response.url), needs_key=bool(self.key))

    async def _call(
        self, method: str, path: str, *, headers: Mapping[bytes, bytes] | None = None, **sent: Any
    ) -> httpx.Response:
        try:
            response = await self.client.request(method, path, headers=headers or self.key, **sent)
        except httpx.TransportError:
            # Not its text, which may quote a header.
            raise Refused(f"No service answers at {self.client.base_url}.") from None
        if response.is_success:
            return response
        raise Refused(_sentence(response))


class _Submitted(BaseModel):
    task_id: str


class _Refusal(BaseModel):
    detail: str


def _path(task_id: str) -> str:
    """Return the task's path; what is no task id must not become another path, as ``all/running`` would."""
    if not is_task_id(task_id):
        raise Refused(f"There is no task {task_id}")
    return f"/v1/tasks/{task_id}"


def _read(document: type[_Document], response: httpx.Response) -> _Document:
    try:
        return document.model_validate_json(response.content)
    except ValidationError:
        raise Refused(f"What answers at {response.url} is no Wan Serve of this version.") from None


def _sentence(response: httpx.Response) -> str:
    """Return the sentence of a refusal, with the tools' arguments in place of the service's fields."""
    try:
        refusal = _Refusal.model_validate_json(response.content)
    except ValidationError:
        return f"The service answered with HTTP {response.status_code}."
    return _NATIVE.sub(lambda found: _ARGUMENTS[found[0]], refusal.detail)
