"""Reference pictures of subjects: taken, refused, stored, made again, and seen by a real small VACE model."""

import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import pytest_asyncio

from models.engine import EngineSettings, GenerationRequest
from models.loading import load_engine
from models.variants import VARIANTS
from serve_app.media.source_image import SourceImage
from serve_app.replica.run import Outcome
from serve_app.replica.task_comment import task_comment
from serve_app.tasks.caller import EVERYONE
from tests.http.http_service import HttpService, as_text, png, reference_sizes, refusal_of, running, settings
from tests.models.checkpoints import save_checkpoint, small
from tests.unit.run_stage import Coordinator, execute, run

VACE = "wan2.1-vace-1.3b"
MODELS = {
    "models": [
        {"name": "plain", "variant": "wan2.1-t2v-1.3b", "weights": "."},
        {"name": "vace", "variant": VACE, "weights": "."},
    ]
}
SMALL: dict[str, Any] = {"prompt": "a red ball", "width": 96, "height": 64, "num_frames": 5, "infer_steps": 1}
TWO = (png(40, 30), png(16, 48))
SIZES = [(40, 30), (16, 48)]


@pytest_asyncio.fixture
async def vace(folder: Path) -> AsyncIterator[HttpService]:
    """The service with a model that takes references, and first one that does not."""
    async with running(settings(folder, **MODELS)) as service:
        yield service


async def test_references_come_as_text_and_as_files_in_their_order(vace: HttpService):
    as_json = {"reference_images": [as_text(data) for data in TWO]}
    await vace.submit(task_id="json", **SMALL | as_json)
    fields = {name: str(value) for name, value in SMALL.items()}
    files = [("reference_files", (f"{at}.png", data)) for at, data in enumerate(TWO)]
    for task_id, more, uploads in (
        ("form", {}, files),
        ("form-text", {"reference_images": json.dumps(as_json["reference_images"])}, None),
    ):
        data = {**fields, **more, "task_id": task_id}
        response = await vace.client.post("/v1/tasks/video/form", data=data, files=uploads)
        assert response.status_code == 200, response.text
        assert response.json()["message"] == "Task created successfully"
    for task_id in ("json", "form", "form-text"):
        task = await vace.store.get(EVERYONE, task_id)
        assert (task.model, reference_sizes(vace, task)) == ("vace", SIZES)
        assert task.tokens == VARIANTS[VACE].tokens(96, 64, 5) + 2 * VARIANTS[VACE].tokens(96, 64, 1)
        assert as_text(TWO[0]) not in json.dumps(task.request)
    kept = len(list(vace.settings.inputs.rglob("*.png")))
    await vace.client.delete("/v1/videos/json")
    assert (kept, len(list(vace.settings.inputs.rglob("*.png")))) == (6, 4)


@pytest.mark.parametrize(
    ("fields", "status", "field", "words"),
    [
        ({"model": "plain", "reference_images": [as_text(png())]}, 422, "reference_images", "plain takes no"),
        ({"reference_images": [as_text(png())] * 5}, 422, "reference_images", "at most 4"),
        ({"reference_images": [1]}, 422, "reference_images", "list"),
        ({"reference_images": [as_text(png()), "/etc/passwd"]}, 403, None, "reference_images[1]"),
        ({"reference_images": [as_text(png()), as_text(b"GIF89a")]}, 400, None, "GIF"),
        ({"reference_images": ["http://127.0.0.1/a.png"]}, 422, "reference_images[0]", "URLs is turned off"),
    ],
)
async def test_bad_references_are_refused_and_leave_nothing(
    vace: HttpService, fields: dict[str, Any], status: int, field: str | None, words: str
):
    response = await vace.client.post("/v1/tasks/video", json={**SMALL, **fields})
    refusal = refusal_of(response)
    assert (response.status_code, refusal.get("field")) == (status, field), response.text
    assert words in refusal["detail"] and str(vace.settings.data_dir) not in response.text
    assert list(vace.settings.inputs.rglob("*.png")) == []


async def test_files_and_text_together_and_too_many_files_are_refused(vace: HttpService):
    for data, count in (({"reference_images": as_text(png())}, 1), ({}, 5)):
        files = [("reference_files", ("a.png", png()))] * count
        response = await vace.client.post("/v1/tasks/video/form", data={"prompt": "x", **data}, files=files)
        assert (response.status_code, response.json()["field"]) == (422, "reference_images"), response.text


async def test_the_models_say_how_many_references_they_take(vace: HttpService):
    models = (await vace.client.get("/v1/service/metadata")).json()["models"]
    assert [model["limits"]["max_references"] for model in models] == [0, 4]


async def test_an_idempotent_repeat_with_another_reference_file_is_refused(vace: HttpService):
    statuses = []
    for data in (TWO[0], TWO[0], TWO[1]):
        response = await vace.client.post(
            "/v1/tasks/video/form",
            data={"prompt": "x", "seed": "1"},
            files=[("reference_files", ("a.png", data))],
            headers={"Idempotency-Key": "k"},
        )
        statuses.append(response.status_code)
    assert statuses == [200, 200, 422]


async def test_a_video_again_and_a_remix_keep_the_references_or_take_new_ones(vace: HttpService):
    await vace.submit(task_id="one", **SMALL, reference_images=[as_text(data) for data in TWO])
    again = {"task_id": "one", "new_task_id": "two"}
    assert (await vace.client.post("/v1/tasks/video/again", json=again)).status_code == 200
    changed = {**again, "new_task_id": "three", "reference_images": [as_text(png(20, 20))]}
    assert (await vace.client.post("/v1/tasks/video/again", json=changed)).status_code == 200
    remix = (await vace.client.post("/v1/videos/one/remix", json={"prompt": "a blue ball"})).json()["id"]
    for task_id, sizes in (("two", SIZES), ("three", [(20, 20)]), (remix, SIZES)):
        assert reference_sizes(vace, await vace.store.get(EVERYONE, task_id)) == sizes
    task = await vace.store.get(EVERYONE, "one")
    comment = json.loads(task_comment(task, VACE, vace.artifacts))["wan_serve"]
    hashes = [hashlib.sha256(SourceImage.from_png(data).pixels.tobytes()).hexdigest() for data in TWO]
    assert comment["reference_sha256"] == hashes


class Seen:
    """A real small VACE model, and the request that it was given."""

    def __init__(self, folder: Path) -> None:
        variant = small(VACE)
        save_checkpoint(variant, folder)
        self.engine: Any = load_engine(EngineSettings(variant, folder))
        self.request: GenerationRequest | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def prepare(self, request: GenerationRequest, *more: Any, **named: Any) -> Any:
        self.request = request
        return self.engine.prepare(request, *more, **named)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("weights"))


async def made(service: HttpService, engine: Any) -> np.ndarray:
    """Run the next task with the engine; return the frames of its video, ``[n, height, width, 3]``."""
    task = replace(await service.claim("vace"), uid="u1", attempt=2)
    with ThreadPoolExecutor(1) as thread:
        outcome = await execute(run(service.artifacts, Coordinator(), engine=engine, task=task), thread)
    assert outcome is Outcome.PUBLISHED
    path = service.artifacts.path_of(service.artifacts.key("u1", 2))
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
    ]
    frames = subprocess.run([*command, "-"], stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(frames, np.uint8).reshape(-1, task.spec.height, task.spec.width, 3)


async def test_a_real_model_is_shown_the_references_and_makes_another_video_with_them(
    vace: HttpService, engine: Seen
):
    same = SMALL | {"model": "vace", "seed": 1}
    await vace.submit(**same, reference_images=[as_text(data) for data in TWO])
    with_references = await made(vace, engine)
    assert engine.request is not None
    shown = [np.array(SourceImage.from_png(data).pixels) for data in TWO]
    assert all(map(np.array_equal, engine.request.references, shown))
    await vace.submit(**same)
    without = await made(vace, engine)
    assert with_references.shape == without.shape == (5, 64, 96, 3)
    assert (with_references != without).any()
