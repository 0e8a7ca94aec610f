"""The tools: to submit videos, follow, list and cancel them, and to find their files."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar

import anyio
import httpx
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent
from pydantic import Field

from serve_app.mcp.running_service import Refused, RunningService
from serve_app.mcp.video import Cancellation, Link, Order, Video, VideoPage

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
            _in_words(self.submit_video),
            _in_words(self.video_status),
            _in_words(self.list_videos),
            _in_words(self.cancel_video),
            _in_words(self.video_link),
        )

    async def submit_video(
        self,
        context: Calling,
        prompt: Annotated[str, Field(description="What the video shows; may be empty beside an image")],
        negative_prompt: Annotated[
            str, Field(description="What it should not show; default: the model's own")
        ] = "",
        image: Annotated[str, Field(description="The first frame: http(s) URL, data: URL or base64")] = "",
        seconds: Annotated[
            float | None, Field(description="Length; default: the model's own", allow_inf_nan=False)
        ] = None,
        size: Annotated[
            str, Field(description="Width x height, such as \"832x480\"; default: the image's or the model's")
        ] = "",
        seed: Annotated[
            int | None, Field(description="Same seed, same video; default: drawn and reported")
        ] = None,
        model: Annotated[
            str, Field(description="A served model's name; default: the first able to do it")
        ] = "",
        steps: Annotated[int | None, Field(description="Denoise steps; default: the model's own")] = None,
        wait: Wait = 0,
    ) -> Video:
        """Make a video from a prompt, with or without a first frame. Answers with its task_id and status."""
        service = self._service(context)
        order = Order(
            prompt=prompt,
            negative_prompt=negative_prompt or None,
            image_path=image or None,
            video_duration=seconds,
            size=size or None,
            seed=seed,
            model=model or None,
            infer_steps=steps,
        )
        return await _after(context, service, await service.submit(order), wait)

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

    async def video_link(self, context: Calling, task_id: TaskId) -> Link:
        """Give the address where a finished video (MP4) is downloaded."""
        return await self._service(context).link(task_id)

    def _service(self, context: Calling) -> RunningService:
        sent = context.headers
        if sent is None:
            return RunningService(self._client, self._key)
        own = {name: value for name in _KEY_HEADERS if (value := sent.get(name))}
        return RunningService(
            self._client, {name.encode(): value.encode("latin-1") for name, value in own.items()}
        )


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
