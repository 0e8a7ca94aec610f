"""First and last frames, and videos of several fragments."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.media.source_image import SourceImage
from serve_app.tasks.caller import EVERYONE
from tests.http.http_service import HttpService, as_text, png, running, settings

FLF2V = {"models": [{"name": "flf", "variant": "wan2.2-i2v-a14b", "weights": "."}]}
LARGE: dict[str, Any] = {"width": 128, "height": 128}


async def test_fragments_are_counted_into_frames_steps_and_work(service: HttpService):
    one = await service.submit(num_frames=9, infer_steps=4)
    three = await service.submit(num_frames=9, infer_steps=4, num_fragments=3)
    status = await service.status(three["task_id"])
    assert (status["num_frames"], status["total_steps"]) == (25, 12)
    first, second = await service.claim(), await service.claim()
    assert (first.id, second.id) == (one["task_id"], three["task_id"])
    assert second.work == 3 * first.work
    assert (second.spec.num_fragments, second.spec.num_frames) == (3, 9)


async def test_a_first_and_a_last_frame_go_to_a_model_that_takes_both(folder: Path):
    async with running(settings(folder, **FLF2V)) as service:
        response = await service.client.post(
            "/v1/tasks/video/form",
            data={"prompt": "x", **LARGE},
            files={"image_file": png(100, 100), "last_frame_file": png(60, 60)},
        )
        assert response.status_code == 200, response.text
        spec = (await service.claim("flf")).spec
        assert spec.image_key is not None and spec.last_image_key is not None
        stored = [service.artifacts.read_input(key) for key in (spec.image_key, spec.last_image_key)]
        assert [SourceImage.from_png(data).width for data in stored] == [100, 60]


async def test_a_last_frame_can_come_as_text_and_is_left_out_of_the_record(folder: Path):
    async with running(settings(folder, **FLF2V)) as service:
        frames: dict[str, Any] = {"image_path": as_text(png()), "last_frame_path": as_text(png(64, 64))}
        task = await service.store.get(EVERYONE, (await service.submit(**frames, **LARGE))["task_id"])
        assert task.spec.last_image_key is not None
        assert "left out" in task.request["last_frame_path"]


@pytest.mark.parametrize(
    "fields, field, status",
    [
        ({"last_frame_path": as_text(png())}, "last_frame_path", 422),
        ({"image_path": as_text(png()), "last_frame_path": as_text(b"no picture")}, None, 400),
        (
            {"image_path": as_text(png()), "last_frame_path": as_text(png()), "num_fragments": 2},
            "num_fragments",
            422,
        ),
    ],
)
async def test_impossible_frames_are_refused_and_leave_nothing_behind(folder: Path, fields, field, status):
    async with running(settings(folder, **FLF2V)) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", **LARGE, **fields})
        assert (response.status_code, response.json().get("field")) == (status, field), response.text
        assert list(service.settings.inputs.rglob("*.png")) == []


@pytest.mark.parametrize("field", ["image_file", "last_frame_file"])
async def test_an_idempotent_repeat_with_another_frame_is_refused(folder: Path, field: str):
    async with running(settings(folder, **FLF2V)) as service:
        statuses = []
        for size in (64, 64, 80):
            response = await service.client.post(
                "/v1/tasks/video/form",
                data={"prompt": "x", "seed": "1", **LARGE},
                files={"image_file": png(), "last_frame_file": png(), field: png(size, size)},
                headers={"Idempotency-Key": "k"},
            )
            statuses.append(response.status_code)
        assert statuses == [200, 200, 422]
