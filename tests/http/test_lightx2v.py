"""LightX2V's task API below its own base URL: its words, shapes and defaults, for old and new clients."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.media.video_writer import VideoWriter
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import TaskError
from tests.http.http_service import VIDEO, HttpService, as_text, png, reference_sizes, running, settings

BASE = "/lightx2v/v1"
LOCAL = f"{BASE}/local/video/generate"


async def submit(service: HttpService, **fields: Any) -> dict[str, Any]:
    response = await service.client.post(f"{BASE}/tasks/video", json={"prompt": "a red ball", **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def status(service: HttpService, task_id: str) -> dict[str, Any]:
    response = await service.client.get(f"{BASE}/tasks/{task_id}/status")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_task_is_followed_in_lightx2vs_words_to_its_download(service: HttpService):
    assert await submit(service, task_id="cat", save_result_path="cats/cat.mp4") == {
        "task_id": "cat",
        "task_status": "pending",
        "save_result_path": "outputs/cats/cat.mp4",
    }
    pending = await status(service, "cat")
    assert pending == {
        "task_id": "cat",
        "status": "pending",
        "start_time": pending["start_time"],
        "end_time": None,
        "error": None,
        "error_type": None,
        "save_result_path": "outputs/cats/cat.mp4",
    }
    early = await service.client.get(f"{BASE}/tasks/cat/result")
    assert (early.status_code, early.json()["detail"]) == (404, "Task not completed")
    task = await service.claim()
    assert (await status(service, "cat"))["status"] == "processing"
    await service.publish(task)
    done = await status(service, "cat")
    assert done["status"] == "completed"
    begun, ended = (datetime.fromisoformat(done[name]) for name in ("start_time", "end_time"))
    assert begun <= ended and begun.tzinfo is None, "LightX2V's times have no zone"
    for path in ("tasks/cat/result", "files/download/cats/cat.mp4", "files/download/outputs/cats/cat.mp4"):
        assert (await service.client.get(f"{BASE}/{path}")).content == VIDEO


async def test_cancelled_and_failed_tasks_end_every_poller(service: HttpService):
    await submit(service, task_id="stopped")
    stop = await service.client.delete(f"{BASE}/tasks/stopped")
    assert stop.json() == {"stop_status": "success", "reason": "Task stopped successfully."}
    for task_id in ("stopped", "unknown"):
        again = await service.client.delete(f"{BASE}/tasks/{task_id}")
        assert (again.status_code, again.json()["stop_status"]) == (200, "do_nothing")
    ended = await status(service, "stopped")
    assert (ended["status"], ended["error"]) == ("cancelled", "Task cancelled by user")
    await submit(service, task_id="failed")
    task = await service.claim()
    await service.ledger.fail(task.uid, task.attempt, TaskError("model_error", "It failed"))
    ended = await status(service, "failed")
    assert (ended["status"], ended["error"], ended["error_type"]) == ("failed", "It failed", "model_error")
    for path in ("tasks/running", "tasks/all/running"):
        await submit(service)
        assert (await service.client.delete(f"{BASE}/{path}")).json()["stop_status"] == "success"
    listed = (await service.client.get(f"{BASE}/tasks")).json()
    assert list(listed)[:2] == ["stopped", "failed"] and listed["failed"] == ended
    assert {task["status"] for task in listed.values()} == {"cancelled", "failed"}
    unknown = await service.client.get(f"{BASE}/tasks/unknown/status")
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "Task not found")


@pytest.mark.parametrize(
    "fields",
    [
        {"size": [64, 96], "num_frames": 9, "infer_steps": 3},
        {"target_shape": [64, 96], "target_video_length": 9, "infer_steps": "3"},
        {"width": 96, "height": "64", "num_frames": 9, "infer_steps": 3, "seed": None, "task": "t2v"},
    ],
)
@pytest.mark.parametrize("path", ["tasks/video", "tasks", "tasks/"])
async def test_old_and_new_names_make_the_same_video(service: HttpService, fields: dict[str, Any], path: str):
    response = await service.client.post(f"{BASE}/{path}", json={"prompt": "a red ball", **fields})
    assert response.status_code == 200, response.text
    spec = (await service.claim()).spec
    assert (spec.width, spec.height, spec.num_frames, spec.steps, spec.seed) == (96, 64, 9, 3, 42)


@pytest.mark.parametrize("path", ["tasks/video/form", "tasks/form"])
async def test_a_form_has_structured_values_as_json_text(service: HttpService, path: str):
    fields = {"prompt": "a red ball", "size": "[64, 96]", "negative_prompt": "", "save_result_path": ""}
    files = {"image_file": ("cat.png", png(), "image/png")}
    response = await service.client.post(f"{BASE}/{path}", data=fields, files=files)
    assert response.status_code == 200, response.text
    spec = (await service.claim()).spec
    assert (spec.width, spec.height, spec.seed) == (96, 64, 42) and spec.image_key is not None


async def test_what_is_not_read_is_ignored_and_named(service: HttpService):
    sent = {
        "resize_mode": "adaptive",
        "target_fps": 16,
        "aspect_ratio": "16:9",
        "image_path": as_text(png()),
    }
    answer = await submit(service, **sent)
    assert "Unknown fields were ignored: resize_mode, target_fps." in answer["message"]
    spec = (await service.claim()).spec
    assert (spec.width, spec.height) == (160, 96), "the picture's shape"
    refused = await service.client.post(f"{BASE}/tasks/video", json={"prompt": "a red ball", "task": "i2v"})
    assert (refused.status_code, refused.json()["field"]) == (422, "task")


async def test_a_full_queue_and_a_taken_id_are_503s(service: HttpService):
    for number in range(5):
        await submit(service, task_id=str(number))
    full = await service.client.post(f"{BASE}/tasks/video", json={"prompt": "a red ball"})
    assert (full.status_code, full.json()["detail"]) == (503, "Task queue is full (max 5 tasks)")
    await service.client.delete(f"{BASE}/tasks/all/running")
    taken = await service.client.post(f"{BASE}/tasks/video", json={"prompt": "a red ball", "task_id": "1"})
    assert (taken.status_code, taken.json()["detail"]) == (503, "Task ID 1 already exists")


async def test_a_client_that_waits_for_idle_keeps_every_replica_busy(service: HttpService):
    for name in ("demo-1", "demo-2"):
        await service.add_replica(name)

    async def is_idle() -> bool:
        found = (await service.client.get(f"{BASE}/service/status")).json()["service_status"]
        assert (await service.client.get(f"{LOCAL}/service_status")).json()["service_status"] == found
        return bool(found == "idle")

    for _ in range(2):
        assert await is_idle()
        await submit(service)
        await service.claim()
    assert not await is_idle() and len(await service.store.running()) == 2


async def test_the_local_api_is_there_too(service: HttpService):
    await service.add_replica()
    body = {"task_id": "cat", "prompt": "a red ball", "save_video_path": "cat.mp4"}
    answers = await asyncio.gather(*(service.client.post(LOCAL, json=body) for _ in range(2)))
    assert sorted("error" in answer.json() for answer in answers) == [False, True]
    assert (await status(service, "cat"))["status"] == "pending"


VACE = {"models": [{"name": "vace", "variant": "wan2.1-vace-1.3b", "weights": "."}]}
SMALL: dict[str, Any] = {"prompt": "x", "size": [64, 96], "num_frames": 5, "infer_steps": 1}


async def test_references_and_videos_come_in_lightx2vs_words(folder: Path):
    data = png(40, 30), png(16, 48)
    texts = [as_text(data[0]), f"data:image/png;base64,{as_text(data[1])}"]
    with VideoWriter(folder / "clip.mp4", width=96, height=64, fps=16) as writer:
        writer.write(np.full((5, 64, 96, 3), 90, np.uint8))
    clip = as_text((folder / "clip.mp4").read_bytes())
    async with running(settings(folder, input_roots=[folder], **VACE)) as service:
        for fields in (
            {"src_ref_images": texts},
            {"src_ref_images": ",".join(texts), "src_video": clip, "src_mask": "clip.mp4", "task": "vace"},
            {"ref_image_paths": json.dumps(texts), "video": clip},
        ):
            body = {**SMALL, **fields, "task_id": f"of-{len(fields)}"}
            answer = await submit(service, **body)
            task = await service.store.get(EVERYONE, answer["task_id"])
            assert reference_sizes(service, task) == [(40, 30), (16, 48)], fields
            has_video, has_mask = "src_video" in fields or "video" in fields, "src_mask" in fields
            assert (task.spec.video_key is not None, task.spec.mask_key is not None) == (has_video, has_mask)
            assert texts[0] not in json.dumps(task.request) and clip[:99] not in json.dumps(task.request)
        form = {name: json.dumps(value) for name, value in SMALL.items()}
        uploads = [("reference_files", ("a.png", data[0]))]
        answer_of_form = await service.client.post(f"{BASE}/tasks/form", data=form, files=uploads)
        assert answer_of_form.status_code == 200, answer_of_form.text


async def test_a_refusal_names_a_file_in_lightx2vs_words(folder: Path):
    async with running(settings(folder, **VACE)) as service:
        for fields, field in (
            ({"src_ref_images": [as_text(png()), "http://a/b.png"]}, "src_ref_images[1]"),
            ({"ref_image_paths": "http://a/b.png"}, "ref_image_paths[0]"),
            ({"src_video": "http://a/b.mp4"}, "src_video"),
            ({"src_mask": as_text(png())}, "src_mask"),
            ({"src_ref_images": ["a"], "reference_images": ["a"]}, "src_ref_images"),
            ({"src_video": "a", "video": "a"}, "src_video"),
            ({"task": "vace"}, "task"),
            ({"last_frame_path": as_text(png())}, "last_frame_path"),
            ({"last_frame_path": as_text(png()), "task": "flf2v"}, "last_frame_path"),
        ):
            answer = await service.client.post(f"{BASE}/tasks/video", json={**SMALL, **fields})
            assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
