"""The whole HTTP service over a real store and real folders, without Ray."""

import asyncio
import base64
import io
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from serve_app.api.application import SURFACES, Surface, build_api
from serve_app.config.settings import AppSettings
from serve_app.files.artifact_stores import open_artifacts
from serve_app.files.artifacts import Artifacts
from serve_app.media.source_image import SourceImage
from serve_app.media.video_stills import StillKind, still_key
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.acts import NO_ACTS, Acts
from serve_app.tasks.replica import Replica
from serve_app.tasks.task import Task
from serve_app.tracing.tracer import UNTRACED, Tracer
from tests.contract.tasks import made

VIDEO = bytes(range(256)) * 40
"""The bytes of a finished video: 10,240 that differ, so that one range can be told from another."""

PREVIEW = b"RIFF....WEBP"
LAST_FRAME = b"PNG of the last frame"


@dataclass
class HttpService:
    """A client of the service, and a stand-in for its coordinator and replicas."""

    client: httpx.AsyncClient
    api: FastAPI
    settings: AppSettings
    database: Database
    store: TaskStore
    fleet: Fleet
    ledger: RunLedger
    artifacts: Artifacts
    nudges: list[str] = field(default_factory=list)
    cancelled: list[Task] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    """How many event streams were open, at each change."""

    async def submit(self, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a valid task, with an API key if there are any, and return the answer."""
        response = await self.client.post(
            "/v1/tasks/video", json={"prompt": "a red ball", **fields}, headers=with_key(key)
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def status(self, task_id: str) -> dict[str, Any]:
        response = await self.client.get(f"/v1/tasks/{task_id}/status")
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def add_replica(
        self, name: str = "demo-1", model: str = "demo", *, seen_at: float = 4e9, **changes: Any
    ) -> None:
        await self.fleet.saw(Replica(name, model, "cpu", 1, seen_at, **changes))

    async def claim(self, model: str = "demo") -> Task:
        """Claim the next task."""
        task = await self.ledger.claim(model, f"{model}-1")
        assert task is not None
        return task

    async def publish(self, task: Task, video: bytes = VIDEO) -> Task:
        """End a run with a video, its last frame and a preview."""
        form = task.spec.output.format
        key = self.artifacts.key(task.uid, task.attempt, form)
        self.artifacts.attempt_path(task.uid, task.attempt, form).write_bytes(video)
        self.artifacts.put_still(still_key(key, StillKind.LAST_FRAME), LAST_FRAME)
        self.artifacts.store_attempt(task.uid, task.attempt, form)
        self.artifacts.put_preview(task.uid, task.attempt, still=PREVIEW, strip=PREVIEW + PREVIEW)
        result = made(key, task.spec.total_steps, timings={"denoise": 1.5})
        done = await self.ledger.publish(task.uid, task.attempt, result)
        assert done is not None
        return done

    async def finished(self, video: bytes = VIDEO, **fields: Any) -> str:
        """Submit a task, let it succeed and return its id."""
        task_id = (await self.submit(**fields))["task_id"]
        await self.publish(await self.claim(), video)
        return str(task_id)


@asynccontextmanager
async def running(
    settings: AppSettings,
    surfaces: Sequence[Surface] = SURFACES,
    *,
    tracer: Tracer = UNTRACED,
    acts: Acts = NO_ACTS,
) -> AsyncIterator[HttpService]:
    """Start the service, yield a client of it, and stop it."""
    nudges: list[str] = []
    cancelled: list[Task] = []
    streams: list[int] = []
    api = build_api(
        settings,
        lambda: nudges.append("nudge"),
        cancelled.append,
        surfaces,
        on_streams=streams.append,
        tracer=tracer,
        acts=acts,
    )
    database = Database(settings.store_url)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as client,
    ):
        yield HttpService(
            client=client,
            api=api,
            settings=settings,
            database=database,
            store=TaskStore(database),
            fleet=Fleet(database),
            ledger=await RunLedger.take_lead(database, lease_s=30, grace_s=10),
            artifacts=open_artifacts(settings),
            nudges=nudges,
            cancelled=cancelled,
            streams=streams,
        )
        await database.close()


@asynccontextmanager
async def listening_at(service: HttpService) -> AsyncIterator[str]:
    """Have the service answer on a port of 127.0.0.1 too, and yield its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the server is up waits
        config = uvicorn.Config(service.api, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


def reference_sizes(service: HttpService, task: Task) -> list[tuple[int, int]]:
    """Return width and height of each reference picture that is stored with a task."""
    stored = [SourceImage.from_png(service.artifacts.read_input(key)) for key in task.spec.reference_keys]
    return [(image.width, image.height) for image in stored]


def refusal_of(response: httpx.Response) -> dict[str, str]:
    """Return ``detail``, ``code`` and perhaps ``field`` of a refusal, in whichever shape it was sent."""
    body: dict[str, Any] = response.json()
    if response.request.url.path.startswith(("/v1/videos", "/v1/models")):
        error = body.pop("error")
        assert not body and set(error) == {"message", "type", "param", "code"}
        body = {"detail": error["message"], "code": error["code"]}
        body |= {} if error["param"] is None else {"field": error["param"]}
    return body


def settings(folder: Path, **changes: Any) -> AppSettings:
    """Return the settings of the demo model over folders below ``folder``."""
    models = ({"name": "demo", "variant": "demo", "weights": folder},)
    return AppSettings.model_validate({"data_dir": folder / "data", "models": models, **changes})


def with_key(key: str | None) -> dict[str, str]:
    """Return the headers of a client with that key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def as_text(data: bytes) -> str:
    """Encode a file as a JSON field holds it."""
    return base64.b64encode(data).decode()


def png(width: int = 96, height: int = 64) -> bytes:
    """Return a small picture as PNG."""
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8).reshape(height, width, 3)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    return buffer.getvalue()
