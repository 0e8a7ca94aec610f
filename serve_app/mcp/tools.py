"""The tools: to submit videos, follow, list and cancel them, and to find their files."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar

import anyio
import httpx
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, Field

from serve_app.mcp.order import Order
from serve_app.mcp.running_service import Refused, RunningService
from serve_app.mcp.video import Cancellation, Link, Video, VideoPage

_KEY_HEADERS = ("authorization", "x-api-key")
_LEAST_PROGRESS = 1e-6
"""What progress grows by where only the phase has changed: the protocol wants each report above the last."""

Calling: TypeAlias = Context[Any, Any]
TaskId = Annotated[str, Field(description="The task_id that submit_video answered with")]
Wait = Annotated[
    float,
    Field(
        description="Seconds to wait for the video to end, with progress reported; then it is answered as it "
        "stands",
        ge=0,
        le=600,
    ),
]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class VideoTools:
    """The tools over one service; ``key`` is the API key header of callers that bring none of their own.

    A caller over HTTP always brings its own headers, so the server's key is never lent to it.
    """

    def __init__(self, client: httpx.AsyncClient, key: Mapping[bytes, bytes]) -> None:
        self._client = client
        self._key = key

    def all(self) -> tuple[Callable[..., Awaitable[Any]], ...]:
        """Return the tools; what the service refuses is their answer, as one sentence."""
        return (
            _taking(Order, _in_words(self.submit_video)),
            _in_words(self.video_status),
            _in_words(self.list_videos),
            _in_words(self.cancel_video),
            _in_words(self.video_link),
        )

    async def submit_video(self, context: Calling, *, wait: Wait = 0, **order: Any) -> Video:
        """Make a video from a prompt, perhaps with pictures or a video. Answers with its task_id."""
        service = self._service(context)
        return await _after(context, service, await service.submit(Order(**order)), wait)

    async def video_status(self, context: Calling, task_id: TaskId, wait: Wait = 0) -> Video:
        """Say how far a video is, or wait for its end."""
        return await _after(context, self._service(context), task_id, wait)

    async def list_videos(
        self,
        context: Calling,
        status: Annotated[
            str,
            Field(
                description="Only these, with commas: submitted, running, succeed, failed, cancelled; "
                "default: all"
            ),
        ] = "",
        limit: Annotated[int, Field(description="At most so many, up to 500")] = 20,
        after: Annotated[str, Field(description="Only those older than this task_id")] = "",
    ) -> VideoPage:
        """List your videos, newest first."""
        return await self._service(context).videos(status=status, limit=limit, after=after)

    async def cancel_video(self, context: Calling, task_id: TaskId) -> Cancellation:
        """Cancel a video that waits or runs."""
        return await self._service(context).cancel(task_id)

    async def video_link(
        self,
        context: Calling,
        task_id: TaskId,
        last_frame: Annotated[bool, Field(description="Its last frame (PNG) in place of the video")] = False,
    ) -> Link:
        """Give the address where a finished video is downloaded, or its last frame."""
        return await self._service(context).link(task_id, last_frame=last_frame)

    def _service(self, context: Calling) -> RunningService:
        sent = context.headers
        if sent is None:
            return RunningService(self._client, self._key)
        own = {name: value for name in _KEY_HEADERS if (value := sent.get(name))}
        return RunningService(
            self._client, {name.encode(): value.encode("latin-1") for name, value in own.items()}
        )


def _taking(
    model: type[BaseModel], tool: Callable[_Parameters, Awaitable[_Result]]
) -> Callable[_Parameters, Awaitable[_Result]]:
    """Return the tool with an argument for each field of ``model`` in place of its ``**`` ones."""
    signature = inspect.signature(tool)
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=Annotated[field.annotation, *field.metadata, Field(description=field.description)],
        )
        for name, field in model.model_fields.items()
    ]
    own = signature.parameters.values()
    first = [found for found in own if found.kind is found.POSITIONAL_OR_KEYWORD]
    last = [found for found in own if found.kind is found.KEYWORD_ONLY]
    # The SDK reads a tool's arguments from its signature.
    tool.__signature__ = signature.replace(parameters=[*first, *fields, *last])  # type: ignore[attr-defined]
    return tool


def _in_words(
    tool: Callable[_Parameters, Awaitable[_Result]],
) -> Callable[_Parameters, Awaitable[_Result | CallToolResult]]:
    """Return the tool with a refusal as its answer: raised, the SDK would put words of its own before it."""

    @wraps(tool)
    async def answered(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result | CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except Refused as refused:
            return CallToolResult(content=[TextContent(type="text", text=str(refused))], is_error=True)

    return answered


async def _after(context: Calling, service: RunningService, task_id: str, wait_s: float) -> Video:
    """Return the video once it has ended, or as it stands after the wait."""
    if wait_s:
        with anyio.move_on_after(wait_s):
            await _report_progress(context, service, task_id)
    return await service.video(task_id)


async def _report_progress(context: Calling, service: RunningService, task_id: str) -> None:
    told = 0.0
    async with aclosing(service.changes(task_id)) as changes:
        async for video in changes:
            told = max(video.progress, told + _LEAST_PROGRESS)
            await context.report_progress(told, 1.0, video.phase or video.message)
