"""A video made again: with the settings of a task or of a file, but for what is changed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.media.file_settings import settings_comment
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_writer import VideoWriter
from serve_app.replica.task_comment import task_comment
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from serve_app.tasks.video_output import VideoFormat, VideoOutput
from tests.http.http_service import HttpService, as_text, png
from tests.http.test_refusals import assert_refused

AGAIN = "/v1/tasks/video/again"
FIRST: dict[str, Any] = {
    "prompt": "a red ball", "negative_prompt": "", "seed": 7, "infer_steps": 3, "width": 96, "height": 64,
    "num_frames": 9, "num_fragments": 2, "fps": 12, "flow_shift": 2.5, "guidance_scale": 3.0,
}  # fmt: skip


async def made(service: HttpService, response: httpx.Response) -> Task:
    assert response.status_code == 200, response.text
    return await service.store.get(EVERYONE, response.json()["task_id"])


async def first(service: HttpService, **fields: Any) -> Task:
    await service.submit(task_id="first", **FIRST, **fields)
    return await service.store.get(EVERYONE, "first")


async def again(service: HttpService, **fields: Any) -> Task:
    return await made(service, await service.client.post(AGAIN, json={"task_id": "first", **fields}))


def file(folder: Path, comment: str | None, form: VideoFormat = VideoFormat.MP4) -> bytes:
    path, encoding = folder / f"a{form.suffix}", VideoEncoding().of(VideoOutput(form))
    with VideoWriter(path, width=96, height=64, fps=12, encoding=encoding, comment=comment) as writer:
        writer.write(np.zeros((2, 64, 96, 3), np.uint8))
    return path.read_bytes()


async def send(
    service: HttpService, video: bytes, picture: bytes | None = None, **fields: str
) -> httpx.Response:
    pictures = {} if picture is None else {"image_file": ("a.png", picture)}
    return await service.client.post(AGAIN, data=fields, files={"file": ("a.mp4", video), **pictures})


async def test_a_task_is_made_again_as_it_was(service: HttpService):
    task = await first(service)
    assert (await again(service)).spec == task.spec


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 8}, {"seed": 8}),
        ({"prompt": "a blue ball", "infer_steps": 5}, {"prompt": "a blue ball", "steps": 5}),
        ({"size": "64x96"}, {"width": 64, "height": 96}),
        (
            {"video_duration": 1, "num_fragments": 1},
            {"num_frames": 13, "num_fragments": 1, "video_frames": None},
        ),
        ({"flow_shift": None}, {}),
    ],
)
async def test_what_is_changed_takes_the_place_of_what_was(
    service: HttpService, change: dict[str, Any], expected: dict[str, Any]
):
    task = await first(service)
    assert (await again(service, **change)).spec == replace(task.spec, **expected)


async def test_a_picture_is_used_again_unless_another_comes(service: HttpService):
    task = await first(service, image_path=png_text(96, 64))
    copy = await again(service)
    assert task.spec.image_key is not None and copy.spec.image_key is not None
    assert copy.spec == replace(task.spec, image_key=copy.spec.image_key) and copy.uid in copy.spec.image_key
    read = service.artifacts.read_input
    assert read(copy.spec.image_key) == read(task.spec.image_key)
    other = await again(service, image_path=png_text(64, 64))
    assert other.spec.image_key is not None and read(other.spec.image_key) != read(task.spec.image_key)


async def test_a_task_whose_picture_is_gone_is_refused(service: HttpService):
    task = await first(service, image_path=png_text(96, 64))
    service.artifacts.delete_task_files(task.uid, None, None)
    refused = await service.client.post(AGAIN, json={"task_id": "first"})
    assert "no longer kept" in assert_refused(refused, 404)["detail"]
    assert (await again(service, image_path=png_text(96, 64))).spec.image_key


@pytest.mark.parametrize("form", list(VideoFormat))
async def test_a_file_of_each_format_is_made_again_with_changes(
    service: HttpService, tmp_path: Path, form: VideoFormat
):
    task = await first(service, format=form)
    video = file(tmp_path, task_comment(task, "demo", service.artifacts), form)
    assert (await made(service, await send(service, video))).spec == task.spec
    changed = await made(service, await send(service, video, seed="8", new_task_id="second", prompt=""))
    assert changed.id == "second" and changed.spec == replace(task.spec, seed=8)


async def test_a_file_made_from_a_picture_asks_for_it(service: HttpService, tmp_path: Path):
    task = await first(service, image_path=png_text(96, 64))
    video = file(tmp_path, task_comment(task, "demo", service.artifacts))
    assert assert_refused(await send(service, video), 422)["field"] == "image_file"
    assert (await made(service, await send(service, video, png(96, 64)))).spec.image_key


async def test_settings_of_a_file_are_checked_as_a_clients_own(service: HttpService, tmp_path: Path):
    task = await first(service)
    honest = json.loads(settings_comment(task.spec, model="demo", variant="demo"))["wan_serve"]
    for field, value in (
        ("prompt", 1), ("prompt", "x" * 5000), ("seed", -5), ("infer_steps", 10**9), ("model", "other"),
        ("loras", [{"name": "../x"}]), ("width", "96"), ("num_frames", -1),
    ):  # fmt: skip
        comment = json.dumps({"wan_serve": {**honest, field: value}})
        refused = assert_refused(await send(service, file(tmp_path, comment)), 422)
        assert refused["field"].startswith((field, "loras")), refused
    path = {**honest, "image_path": "/etc/passwd", "callback_url": "http://x", "save_result_path": "../../x"}
    harmless = await send(service, file(tmp_path, json.dumps({"wan_serve": path})))
    assert (await made(service, harmless)).spec == task.spec


@pytest.mark.parametrize(
    "video",
    [b"", b"no video", b"\0\0\0\x08moov", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"PK\3\4", b"\x1aE\xdf\xa3"],
)
async def test_a_file_without_settings_is_refused(service: HttpService, video: bytes):
    assert "no settings" in assert_refused(await send(service, video), 422)["detail"]


async def test_requests_that_name_no_video_or_two_are_refused(service: HttpService, tmp_path: Path):
    task = await first(service)
    video = file(tmp_path, task_comment(task, "demo", service.artifacts))
    assert assert_refused(await send(service, video, task_id="first"), 422)["field"] == "task_id"
    for body, status in (({}, 422), ({"task_id": "unknown"}, 404), ({"task_id": "../x"}, 422)):
        assert_refused(await service.client.post(AGAIN, json=body), status)
    strength = await service.client.post(AGAIN, json={"task_id": "first", "lora_strength": 0.5})
    assert assert_refused(strength, 422)["field"] == "lora_strength"


def png_text(width: int, height: int) -> str:
    return as_text(png(width, height))
