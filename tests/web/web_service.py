"""The HTTP service on a port, over a real store, with a stand-in for its coordinator and replicas."""

import asyncio
import io
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import uvicorn
from PIL import Image

from models.phase import Phase
from serve_app.config.settings import AppSettings
from serve_app.media.file_settings import settings_comment
from serve_app.tasks.admission import Admission
from serve_app.tasks.command import Command
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.task import Task, TaskError
from tests.contract.tasks import new
from tests.http.http_service import HttpService, running


@dataclass
class WebService:
    """The service, and what its replicas do."""

    http: HttpService
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def step(self, task: Task, step: int) -> Command:
        """Have a run report that so many of its steps are done, and return what it is told."""
        report = RunReport(step, step / task.spec.total_steps * 0.9, Phase.DENOISING)
        return await self.http.ledger.report(task.uid, task.attempt, report)

    def preview(self, task: Task) -> None:
        """Have a run show a picture of 12x8."""
        picture = io.BytesIO()
        Image.new("RGB", (12, 8), "red").save(picture, "WEBP")
        self.http.artifacts.put_preview(task.uid, task.attempt, still=picture.getvalue(), strip=b"")

    async def many(self, number: int) -> None:
        """Put so many tasks into the queue, past the API."""
        admission = Admission(max_queued=2 * number, max_attempts=3, retry_after_s=7)
        submits = (self.http.store.submit(new(f"task-{at:04}"), admission) for at in range(number))
        await asyncio.gather(*submits)

    async def finish(self, task: Task) -> None:
        """End a run with a video that a browser plays."""
        await self.http.publish(task, clip(task.spec.width, task.spec.height))

    async def fail(self, task: Task, message: str) -> None:
        await self.http.ledger.fail(task.uid, task.attempt, TaskError("out_of_memory", message))

    async def finished(self, **fields: Any) -> Task:
        """Submit a video and have it made."""
        await self.http.submit(**fields)
        task = await self.http.claim()
        await self.finish(task)
        return task


@cache
def clip(width: int, height: int, comment: str = "") -> bytes:
    """Return a short H.264 video of that size, with a comment where the service writes its settings."""
    source = f"testsrc=size={width}x{height}:rate=8:duration=1"
    options = ["-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"]
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            *options,
            "-metadata",
            f"comment={comment}",
            "-y",
            file.name,
        ]
        subprocess.run(command, check=True)
        return Path(file.name).read_bytes()


def clip_with_settings(task: Task) -> bytes:
    """Return a video that holds the settings of a task."""
    comment = settings_comment(task.spec, model=task.model, variant="demo")
    return clip(task.spec.width, task.spec.height, comment)


@asynccontextmanager
async def serving(settings: AppSettings, port: int = 0) -> AsyncIterator[WebService]:
    """Start the service on a port of 127.0.0.1, 0 for any, and stop it, its streams cut off."""
    async with running(settings) as http:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            server = uvicorn.Server(
                uvicorn.Config(http.api, lifespan="off", log_level="critical", timeout_graceful_shutdown=0)
            )
            task = asyncio.create_task(server.serve([listener]))
            yield WebService(http, listener.getsockname()[1])
            server.should_exit = True
            await task


def chromium() -> Path | None:
    """Return Debian's Chromium, None without it."""
    found = Path("/usr/bin/chromium")
    return found if found.exists() else None
