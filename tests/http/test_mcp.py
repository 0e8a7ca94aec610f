"""The MCP server between the SDK's own client and the HTTP service on a real socket."""

import asyncio
import hashlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import httpx2
import numpy as np
import pytest
import pytest_asyncio
from mcp_types import CallToolResult, TextContent

from serve_app.mcp.order import NATIVE_NAMES
from serve_app.mcp.running_service import RunningService
from serve_app.media.video_writer import VideoWriter
from serve_app.tasks.task import Task
from serve_app.tasks.video_output import Codec, VideoFormat, VideoOutput
from tests.contract.tasks import at
from tests.http.http_service import (
    LAST_FRAME,
    VIDEO,
    HttpService,
    as_text,
    listening_at,
    png,
    running,
    settings,
    with_key,
)

if TYPE_CHECKING:
    import mcp

    from serve_app.mcp import server as mcp_server

DEADLINE_S = 60


@pytest.fixture(scope="module", autouse=True)
def load_sdk() -> None:
    """Load the SDK, which takes long, only where its tests run: every process collects all files."""
    global mcp, mcp_server
    import mcp

    from serve_app.mcp import server as mcp_server


@dataclass
class Listening:
    """The service on a port of 127.0.0.1, for the keys ``alice`` and ``bob``."""

    service: HttpService
    url: str

    @asynccontextmanager
    async def tools(self, key: str = "alice") -> AsyncIterator["mcp.Client"]:
        """Yield a client of an MCP server in this process."""
        async with (
            httpx.AsyncClient(base_url=self.url) as http,
            mcp.Client(mcp_server.build_server(http, key)) as client,
        ):
            yield client


@dataclass
class Reports:
    """The progress that was reported to a client."""

    told: list[tuple[float, str]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        assert total == 1.0 and message is not None
        self.told.append((progress, message))
        self.news.set()

    async def until(self, message: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not any(told.startswith(message) for _, told in self.told):
                self.news.clear()
                await self.news.wait()


@pytest_asyncio.fixture
async def live(folder: Path) -> AsyncIterator[Listening]:
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("alice", "bob")]
    async with running(settings(folder, keys=keys)) as service, listening_at(service) as url:
        yield Listening(service, url)


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A small video as base64."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, width=96, height=64, fps=16) as writer:
        writer.write(np.full((5, 64, 96, 3), 90, np.uint8))
    return as_text(path.read_bytes())


def sentence(result: CallToolResult) -> str:
    """Return the text of a refusal."""
    (content,) = result.content
    assert result.is_error and isinstance(content, TextContent)
    text: str = content.text
    return text


async def made(service: HttpService, reports: Reports) -> Task:
    """Have the waiting task run, one step of two, and succeed."""
    await reports.until("Waiting in the queue, number 1")
    task = await service.claim()
    await reports.until("preparing")
    await service.ledger.report(task.uid, 1, at(1, 0.5))
    await reports.until("step 2 of 2")
    return await service.publish(task)


@pytest.mark.slow
async def test_a_submit_over_stdio_tells_of_each_step_and_answers_with_the_end(
    live: Listening, tmp_path: Path
):
    command = ["-m", "serve_app.cli", "mcp", "--url", live.url]
    server = mcp.StdioServerParameters(command=sys.executable, args=command, env={"WAN_SERVE_KEY": "alice"})
    reports, log = Reports(), tmp_path / "log"
    asked = {"prompt": "a red ball", "seconds": 1, "steps": 2, "wait": 60}
    with log.open("w") as errors:
        async with mcp.Client(mcp.stdio_client(server, errlog=errors), mode="legacy") as client:
            waiting = asyncio.create_task(client.call_tool("submit_video", asked, progress_callback=reports))
            task = await made(live.service, reports)
            video = (await waiting).structured_content
    assert video is not None
    assert (task.owner, video["task_id"], video["status"]) == ("alice", task.id, "succeed")
    progress = [told for told, _ in reports.told]
    assert progress == sorted(set(progress)), "each above the last"
    assert log.read_text() == ""


@pytest.mark.slow
async def test_over_http_each_caller_is_known_by_its_own_key(live: Listening):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "serve_app.cli", "mcp", "--url", live.url, "--http", str(port)]
    server = await asyncio.create_subprocess_exec(sys.executable, *command, env={"WAN_SERVE_KEY": "alice"})
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
            writer.close()
            for headers in (with_key("bob"), {"X-API-Key": "bob"}):
                answer = await called_over_http(port, headers)
                assert not answer.is_error and answer.structured_content is not None
                task_id = answer.structured_content["task_id"]
                mine = await live.service.client.get(f"/v1/tasks/{task_id}/status", headers=with_key("bob"))
                assert mine.json()["owner"] == "bob"
            refused = sentence(await called_over_http(port, {}))
            assert refused == "A known API key is required: Authorization: Bearer KEY."
    finally:
        server.terminate()
        await server.wait()


async def called_over_http(port: int, headers: dict[str, str]) -> CallToolResult:
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers=headers) as http,
        mcp.Client(streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)) as client,
    ):
        return await client.call_tool("submit_video", {"prompt": "x"})


async def test_a_video_is_listed_cancelled_and_linked(live: Listening):
    service = live.service
    async with live.tools() as client:
        await service.submit(key="alice", task_id="first")
        await service.submit(key="bob", task_id="other")
        await service.publish(await service.claim())
        await service.submit(key="alice", task_id="second")
        listed = (await client.call_tool("list_videos", {"status": "submitted"})).structured_content
        assert listed is not None and [task["task_id"] for task in listed["tasks"]] == ["second"]
        early = sentence(await client.call_tool("video_link", {"task_id": "second"}))
        assert early.startswith("The task has not finished: it is submitted.")
        gone = (await client.call_tool("cancel_video", {"task_id": "second"})).structured_content
        assert gone is not None and gone["stop_status"] == "success"
        after = (await client.call_tool("video_status", {"task_id": "second", "wait": 60})).structured_content
        assert after is not None and after["status"] == "cancelled", "a wait for what has ended ends at once"
        link = (await client.call_tool("video_link", {"task_id": "first"})).structured_content
    assert link is not None and link["needs_key"]
    async with httpx.AsyncClient(headers=with_key("alice")) as http:
        assert (await http.get(link["url"])).content == VIDEO


@pytest.mark.slow
async def test_everything_that_can_be_asked_for_is_an_argument(folder: Path, clip: str):
    vace = {"name": "vace", "variant": "wan2.1-vace-1.3b", "weights": "."}
    asked = {
        **{
            "prompt": "x",
            "negative_prompt": "blurry",
            "size": "96x64",
            "fps": 16,
            "num_frames": 5,
            "seed": 7,
        },
        **{"reference_images": [as_text(png())], "video": clip, "mask": clip, "control_scale": 0.5},
        **{"steps": 3, "guidance_scale": 2.5, "flow_shift": 3.0, "model": "vace", "priority": 1},
        **{"format": "mp4", "codec": "h265", "return_last_frame": True, "save_result_path": "x.mp4"},
        **{"expires_in_s": 600, "task_id": "mine", "seed": 7, "crf": 20},
    }
    async with (
        running(settings(folder, models=[vace])) as service,
        listening_at(service) as url,
        httpx.AsyncClient(base_url=url) as http,
        mcp.Client(mcp_server.build_server(http, "")) as client,
    ):
        (submit,) = [tool for tool in (await client.list_tools()).tools if tool.name == "submit_video"]
        described = submit.input_schema["properties"]
        assert asked.keys() | NATIVE_NAMES.keys() | {"wait"} == described.keys()
        assert all(found["description"] for found in described.values())
        answer = (await client.call_tool("submit_video", asked)).structured_content
        assert answer is not None and answer["task_id"] == "mine", answer
        assert (await http.get("/v1/tasks/mine/status")).json()["expires_at"]
        spec = (task := await service.claim("vace")).spec
        assert (spec.width, spec.height, spec.num_frames, spec.fps, spec.seed) == (96, 64, 5, 16, 7)
        assert (spec.steps, spec.guidance_scale, spec.flow_shift, spec.control_scale) == (3, 2.5, 3.0, 0.5)
        assert spec.video_key and spec.mask_key and len(spec.reference_keys) == 1
        assert spec.output == VideoOutput(VideoFormat.MP4, Codec.H265, 20, True)
        assert (task.priority, task.save_path) == (1, "outputs/x.mp4")
        assert (await client.call_tool("video_link", {"task_id": "mine", "last_frame": True})).is_error
        await service.publish(task)
        link = await client.call_tool("video_link", {"task_id": "mine", "last_frame": True})
        assert link.structured_content is not None
        assert (await http.get(link.structured_content["url"])).content == LAST_FRAME


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("submit_video", {"prompt": "x", "steps": 0}, "steps: must be a whole number from 1 to 200."),
        (
            "submit_video",
            {"prompt": "x", "image": "a.png"},
            "image is a path, and this service reads none; upload the image file or send it as base64.",
        ),
        (
            "submit_video",
            {"prompt": "x", "last_image": "data:,"},
            "last_image: needs a first frame beside it.",
        ),
        (
            "submit_video",
            {"prompt": "x", "continue_from": {"task_id": "mine"}},
            "continue_from: that task has no finished video.",
        ),
        ("cancel_video", {"task_id": "other"}, "There is no task other"),
        ("cancel_video", {"task_id": "all/waiting"}, "There is no task all/waiting"),
        (
            "submit_video",
            {"seed": 1.5},
            "prompt: is required; seed: must be a valid integer, got a number with a fractional part.",
        ),
        ("video_status", {"task_id": "mine", "wait": 601}, "wait: must be less than or equal to 600."),
    ],
)
async def test_what_the_service_refuses_is_said_in_its_words(
    live: Listening, tool: str, arguments: dict[str, object], said: str
):
    await live.service.submit(key="alice", task_id="mine")
    await live.service.submit(key="bob", task_id="other")
    async with live.tools() as client:
        assert sentence(await client.call_tool(tool, arguments)) == said
    for task_id, key in (("mine", "alice"), ("other", "bob")):
        status = await live.service.client.get(f"/v1/tasks/{task_id}/status", headers=with_key(key))
        assert status.json()["status"] == "submitted"


async def test_a_service_that_is_not_there_is_said_without_the_key():
    async with (
        httpx.AsyncClient(base_url="http://127.0.0.1:9") as http,
        mcp.Client(mcp_server.build_server(http, "secret\n")) as client,
    ):
        said = sentence(await client.call_tool("video_status", {"task_id": "a", "wait": 1}))
    assert said == "No service answers at http://127.0.0.1:9."


@pytest.mark.slow
async def test_a_stream_that_breaks_is_taken_up_again(live: Listening):
    await live.service.submit(key="alice", task_id="mine")
    waiting = (await live.service.client.get("/v1/tasks/mine/status", headers=with_key("alice"))).json()
    streams = [[waiting], [waiting, {**waiting, "status": "succeed"}]]

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999999\r\n\r\n")
        for event in streams.pop(0):
            writer.write(f"data: {json.dumps(event)}\n\n".encode())
        await writer.drain()
        writer.close()  # far from the length that it has told

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as http, asyncio.timeout(DEADLINE_S):
            changes = RunningService(http, {}).changes("mine")
            assert [video.status async for video in changes] == ["submitted", "submitted", "succeed"]
    assert not streams
