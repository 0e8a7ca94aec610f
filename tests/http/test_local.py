"""The local surface speaks LightX2V's words exactly."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from serve_app.tasks.task import TaskError
from tests.contract.tasks import at
from tests.http.http_service import HttpService, png, running, settings

BASE = "/v1/local/video/generate"
GUIDE: dict[str, Any] = {
    "task_id": "2025-08-01-cats",
    "task_id_must_unique": True,
    "prompt": "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a stage.",
    "negative_prompt": "色调艳丽，过曝，静态，细节模糊不清，字幕",
    "image_path": "",
    "save_video_path": "./output_lightx2v_wan_t2v_t02.mp4",
}
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


async def generate(service: HttpService, **changes: object) -> dict[str, Any]:
    response = await service.client.post(BASE, json={**GUIDE, **changes})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def task_status(service: HttpService, task_id: str = GUIDE["task_id"]) -> dict[str, Any]:
    response = await service.client.post(f"{BASE}/task_status", json={"task_id": task_id})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def test_the_guides_message_is_taken_and_followed_to_its_end(service: HttpService):
    await service.add_replica()
    assert await generate(service) == {
        "task_id": GUIDE["task_id"],
        "task_status": "processing",
        "save_video_path": GUIDE["save_video_path"],
    }
    assert await task_status(service) == {"task_status": "processing"}
    task = await service.claim()
    assert task.save_path == "outputs/output_lightx2v_wan_t2v_t02.mp4"
    assert await task_status(service) == {"task_status": "processing"}
    await service.publish(task)
    done = await task_status(service)
    assert (done["task_status"], done["success"]) == ("completed", True)
    assert GUIDE.items() <= done["message"].items()
    assert TIME.fullmatch(done["start_time"]) and TIME.fullmatch(done["completion_time"])
    everything = (await service.client.get(f"{BASE}/get_all_tasks")).json()
    del done["task_status"]
    assert everything == {GUIDE["task_id"]: done}


async def test_an_unknown_task_is_not_found(service: HttpService):
    for task_id in ("unknown", "", "../x", "x" * 1000):
        assert await task_status(service, task_id) == {"task_status": "not_found"}


async def test_a_failed_task_says_why(service: HttpService):
    await service.add_replica()
    await generate(service)
    task = await service.claim()
    await service.ledger.fail(task.uid, task.attempt, TaskError("model_error", "The model failed"))
    failed = await task_status(service)
    assert (failed["task_status"], failed["success"], failed["error"]) == (
        "completed",
        False,
        "The model failed",
    )
    assert "completion_time" not in failed


async def test_without_a_free_replica_the_service_is_busy(service: HttpService):
    assert await generate(service) == {"error": "Service busy"}
    await service.add_replica("demo-1")
    await service.add_replica("demo-2")
    answers = await asyncio.gather(*(generate(service, task_id=f"cat-{number}") for number in range(5)))
    assert sum("task_status" in answer for answer in answers) == 2
    assert answers.count({"error": "Service busy"}) == 3


async def test_the_service_is_idle_while_a_replica_is_free(service: HttpService):
    assert (await service.client.get(f"{BASE}/service_status")).json() == {
        "service_status": "busy",
        "task_id": "",
    }
    await service.add_replica()
    assert (await service.client.get(f"{BASE}/service_status")).json() == {"service_status": "idle"}
    await generate(service)
    await service.claim()
    assert (await service.client.get(f"{BASE}/service_status")).json() == {
        "service_status": "busy",
        "task_id": GUIDE["task_id"],
    }


async def test_an_id_that_must_be_unique_is_taken_once(service: HttpService):
    await service.add_replica()
    await generate(service)
    await service.publish(await service.claim())
    assert await generate(service) == {"error": f"Task ID {GUIDE['task_id']} already exists"}


async def test_otherwise_the_newer_task_replaces_the_record(service: HttpService):
    await service.add_replica()
    await generate(service)
    await service.publish(await service.claim())
    assert "task_status" in await generate(service, task_id_must_unique=False, prompt="another cat")
    assert await task_status(service) == {"task_status": "processing"}
    await service.publish(await service.claim())
    assert (await task_status(service))["message"]["prompt"] == "another cat"


async def test_the_running_task_is_stopped_and_the_service_goes_on(service: HttpService):
    await service.add_replica()
    stop = f"{BASE}/stop_running_task"
    nothing = {"stop_status": "do_nothing", "reason": "No running task found."}
    assert (await service.client.get(stop)).json() == nothing
    await generate(service)
    task = await service.claim()
    assert (await service.client.get(stop)).json() == {
        "stop_status": "success",
        "reason": "Task stopped successfully.",
    }
    assert not await service.ledger.report(task.uid, task.attempt, at(1, 0.1))
    stopped = await task_status(service)
    assert (stopped["success"], stopped["error"]) == (False, "Task stopped by user")
    assert (await service.client.get(stop)).json() == nothing
    assert "task_status" in await generate(service, task_id="next")


async def test_a_task_is_stopped_also_in_the_moment_before_it_starts(service: HttpService):
    await service.add_replica()
    await generate(service)
    waiting = (await service.submit())["task_id"]
    assert (await service.client.get(f"{BASE}/stop_running_task")).json()["stop_status"] == "success"
    assert (await task_status(service))["error"] == "Task stopped by user"
    assert (await service.status(waiting))["status"] == "submitted"


@pytest.mark.parametrize("path", ["../up.mp4", "/etc/passwd", "a/../../b.mp4", "folder/", ".hidden.mp4"])
async def test_a_bad_save_path_is_an_error_in_a_200(service: HttpService, path):
    await service.add_replica()
    assert set(await generate(service, save_video_path=path)) == {"error"}
    assert sum((await service.store.counts()).values()) == 0


async def test_an_absolute_save_path_below_an_output_folder_is_taken(folder: Path):
    (folder / "more").mkdir()
    async with running(settings(folder, output_roots=[folder / "more"])) as service:
        await service.add_replica()
        path = str(folder / "more" / "cat.mp4")
        assert (await generate(service, save_video_path=path))["save_video_path"] == path
        assert (await service.claim()).save_path == path


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ""},
        {"prompt": 3},
        {"task_id": "../x"},
        {"task_id": None},
        {"task_id_must_unique": "yes"},
        {"save_video_path": None},
        {"num_fragments": 0},
        {"negative_prompt": "x" * 5000},
    ],
)
async def test_a_wrong_field_is_a_422(service: HttpService, changes):
    await service.add_replica()
    response = await service.client.post(BASE, json={**GUIDE, **changes})
    assert response.status_code == 422
    assert response.json()["field"] == next(iter(changes))


@pytest.mark.parametrize(
    "changes",
    [{"image_path": "/etc/passwd"}, {"image_path": "cat"}, {"use_prompt_enhancer": True}],
)
async def test_an_impossible_request_is_an_error_in_a_200(service: HttpService, changes):
    await service.add_replica()
    assert set(await generate(service, **changes)) == {"error"}


async def test_an_image_below_an_input_folder_makes_a_task_image_to_video(folder: Path):
    (folder / "in").mkdir()
    (folder / "in" / "cat.png").write_bytes(png())
    async with running(settings(folder, input_roots=[folder / "in"])) as service:
        await service.add_replica()
        await generate(service, image_path=str(folder / "in" / "cat.png"))
        assert (await service.claim()).spec.image_key is not None


async def test_a_task_of_one_surface_is_seen_on_the_other(service: HttpService):
    await service.add_replica()
    await generate(service)
    assert (await service.status(GUIDE["task_id"]))["status"] == "submitted"
    await service.publish(await service.claim())
    native = await service.finished(task_id="native")
    assert (await task_status(service, native))["success"] is True
    assert set((await service.client.get(f"{BASE}/get_all_tasks")).json()) == {GUIDE["task_id"], "native"}
