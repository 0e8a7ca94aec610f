"""Submits: accepted fields, defaults, and the answer."""

import asyncio
import base64
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serve_app.api import application
from serve_app.config.model_settings import ModelSettings
from serve_app.media.source_image import SourceImage
from serve_app.queue.snapshot import QueueSnapshot
from serve_app.queue.view import QueueView
from serve_app.submission import submitter
from serve_app.submission.plan import Plan, plan
from serve_app.submission.video_order import VideoOrder
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from tests.http.http_service import HttpService, png, running, settings

GUIDE_T2V: dict[str, Any] = {
    "prompt": "A white cat sitting by the beach under sunset sky",
    "negative_prompt": "blurry, low quality, static",
    "num_fragments": 1,
    "infer_steps": 4,
    "video_duration": 5,
    "seed": 42,
    "height": 480,
    "width": 832,
}


async def test_the_guides_request_is_taken_and_stored_before_the_answer(service: HttpService):
    response = await service.client.post("/v1/tasks/video", json=GUIDE_T2V)
    body = response.json()
    assert response.status_code == 200
    assert body["status"] == "submitted" and body["task_status"] == "pending"
    assert body["message"].startswith("Task created successfully")
    assert body["save_result_path"] == f"outputs/videos/{body['task_id']}.mp4"
    task = await service.store.get(EVERYONE, body["task_id"])
    assert (task.spec.seed, task.spec.steps, task.spec.num_frames) == (42, 4, 25)
    assert task.spec.negative_prompt == "blurry, low quality, static"
    assert service.nudges == ["nudge"]


async def test_a_form_and_json_make_the_same_task(service: HttpService):
    await service.submit(task_id="as-json", **{**GUIDE_T2V, "target_shape": [480, 832]})
    fields = {name: str(value) for name, value in GUIDE_T2V.items()} | {"target_shape": "480,832"}
    response = await service.client.post("/v1/tasks/video/form", data={"task_id": "as-form", **fields})
    assert response.status_code == 200, response.text
    assert (await service.store.get(EVERYONE, "as-form")).spec == (
        await service.store.get(EVERYONE, "as-json")
    ).spec


async def test_an_empty_form_field_counts_as_not_sent(service: HttpService):
    response = await service.client.post(
        "/v1/tasks/video/form", data={"prompt": "a cat", "seed": "", "width": " ", "image_file": ""}
    )
    assert response.status_code == 200, response.text
    assert (await service.store.get(EVERYONE, response.json()["task_id"])).spec.width == 160


async def test_null_counts_as_not_sent(service: HttpService):
    body = await service.submit(seed=None, model=None, target_shape=None, lora_name=None)
    assert body["message"] == "Task created successfully"


async def test_a_rounded_size_and_length_are_told_in_the_answer_and_the_status(service: HttpService):
    body = await service.submit(width=100, height=50, num_frames=10)
    assert "96x32" in body["message"] and "from 10 to 9" in body["message"]
    status = await service.status(body["task_id"])
    assert (status["width"], status["height"], status["num_frames"]) == (96, 32, 9)
    assert len(status["notes"]) == 2


async def test_unknown_fields_are_ignored_and_listed(service: HttpService):
    body = await service.submit(resize_mode="adaptive", use_prompt_enhancer=False, seed=1)
    assert "Unknown fields were ignored: resize_mode, use_prompt_enhancer." in body["message"]


async def test_many_unknown_fields_with_broken_names_are_listed_in_short(service: HttpService):
    fields = json.dumps({"prompt": "x", "\ud800" * 200: 1, **{f"field{n}": n for n in range(50)}})
    response = await service.client.post("/v1/tasks/video", content=fields)
    assert response.status_code == 200
    assert "and 31 more" in response.json()["message"]
    assert len(response.json()["message"]) < 1000


async def test_a_drawn_seed_is_reported_and_differs_from_the_next(service: HttpService):
    seeds = {(await service.status((await service.submit())["task_id"]))["seed"] for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"size": "64x32"}, (64, 32)),
        ({"size": " 64 X 32 "}, (64, 32)),
        ({"target_shape": [32, 64]}, (64, 32)),
        ({"width": 64.0}, (64, 96)),
        ({"target_shape": [], "height": 32}, (160, 32)),
        ({"size": [32, 64]}, (64, 32)),
        ({"size": "[32, 64]"}, (64, 32)),
        ({"size": []}, (160, 96)),
        ({"size": ""}, (160, 96)),
        ({"size": [], "width": 64}, (64, 96)),
        ({"size": "64x32", "aspect_ratio": "2:1"}, (64, 32)),
        ({"aspect_ratio": "9:16"}, (96, 160)),
        ({"resolution": "64p"}, (96, 64)),
        ({"resolution": "64P", "aspect_ratio": "9:16"}, (64, 96)),
        ({"resolution": "720p"}, (160, 96)),
        ({"resolution": "720p", "size": "64x32"}, (64, 32)),
        ({"resolution": " "}, (160, 96)),
        ({"aspect_ratio": " 1 : 4 "}, (64, 224)),
        ({"aspect_ratio": "1:1"}, (96, 96)),
        ({"aspect_ratio": "3:2"}, (160, 96)),
        ({"aspect_ratio": ""}, (160, 96)),
    ],
)
async def test_a_size_can_be_spelt_in_several_ways(service: HttpService, fields, size):
    status = await service.status((await service.submit(**fields))["task_id"])
    assert (status["width"], status["height"]) == size


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({"video_duration": 1}, 9),
        ({"video_duration": 1, "fps": 16}, 17),
        ({"video_duration": 2, "num_frames": 5}, 5),
        ({"video_duration": 2, "target_video_length": 9}, 9),
        ({}, 25),
    ],
)
async def test_a_length_can_be_spelt_in_several_ways(service: HttpService, fields, frames):
    assert (await service.status((await service.submit(**fields))["task_id"]))["num_frames"] == frames


async def test_the_work_is_counted_in_steps_tokens_and_forwards(service: HttpService):
    small: dict[str, Any] = {"width": 64, "height": 32, "num_frames": 5, "infer_steps": 3}
    plain = await service.store.get(EVERYONE, (await service.submit(**small, guidance_scale=1))["task_id"])
    guided = await service.store.get(EVERYONE, (await service.submit(**small, guidance_scale=4))["task_id"])
    assert (plain.work, guided.work) == (3 * 2 * 1 * 2, 2 * 3 * 2 * 1 * 2)


async def test_a_seed_of_minus_one_is_drawn_as_on_wans_command_line(service: HttpService):
    seeds = {(await service.status((await service.submit(seed=-1))["task_id"]))["seed"] for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**31 for seed in seeds)


async def test_an_aspect_ratio_or_a_resolution_beside_a_size_is_left_out_and_told(service: HttpService):
    for fields in ({"width": 64, "height": 64}, {"size": [64, 64]}):
        body = await service.submit(aspect_ratio="16:9", **fields)
        assert "The aspect ratio was not used" in body["message"]
    body = await service.submit(resolution="64p", width=64)
    assert "The resolution was not used" in body["message"]


@pytest.mark.parametrize("path", ["/v1/tasks/video", "/v1/local/video/generate"])
@pytest.mark.parametrize("prompt", [{"prompt": ""}, {"prompt": " "}, {}])
async def test_a_video_from_an_image_needs_no_prompt(service: HttpService, path: str, prompt: dict[str, Any]):
    await service.add_replica()
    body = {"task_id": "x", "save_video_path": "x.mp4", **prompt}
    refused = await service.client.post(path, json=body)
    assert refused.status_code == 422 and refused.json()["field"] == "prompt"
    assert "without an image" in refused.json()["detail"]
    image = base64.b64encode(png()).decode()
    response = await service.client.post(path, json={**body, "image_path": image})
    assert response.status_code == 200 and "error" not in response.json(), response.text
    assert (await service.store.get(EVERYONE, "x")).spec.prompt == ""


async def test_a_form_with_an_image_needs_no_prompt(service: HttpService):
    response = await service.client.post("/v1/tasks/video/form", files={"image_file": png()})
    assert response.status_code == 200, response.text


async def test_an_uploaded_image_is_kept_and_makes_a_task_image_to_video(service: HttpService):
    response = await service.client.post(
        "/v1/tasks/video/form",
        data={"prompt": "a cat"},
        files={"image_file": ("katze.png", png(100, 80), "image/png")},
    )
    assert response.status_code == 200, response.text
    assert "centre-cropped" in response.json()["message"]
    task = await service.store.get(EVERYONE, response.json()["task_id"])
    assert task.spec.image_key is not None
    assert SourceImage.from_png(service.artifacts.read_input(task.spec.image_key)).width == 100


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_an_image_can_come_as_text_and_is_left_out_of_the_record(service: HttpService, prefix):
    text = prefix + base64.b64encode(png()).decode()
    body = await service.submit(image_path=text)
    task = await service.store.get(EVERYONE, body["task_id"])
    assert task.spec.image_key is not None
    assert text not in json.dumps(dict(task.request))


async def test_an_image_path_below_an_input_root_is_read(folder: Path):
    (folder / "in").mkdir()
    (folder / "in" / "cat.png").write_bytes(png())
    async with running(settings(folder, input_roots=[folder / "in"])) as service:
        body = await service.submit(image_path=str(folder / "in" / "cat.png"))
        assert (await service.store.get(EVERYONE, body["task_id"])).spec.image_key is not None


async def test_the_same_idempotency_key_gives_the_same_task(service: HttpService):
    answers = [
        await service.client.post(
            "/v1/tasks/video", json={"prompt": "a cat"}, headers={"Idempotency-Key": "once"}
        )
        for _ in range(2)
    ]
    assert answers[0].json()["task_id"] == answers[1].json()["task_id"]
    assert sum((await service.store.counts()).values()) == 1
    assert len(service.nudges) == 1


async def test_an_idempotent_repeat_leaves_no_second_image_behind(service: HttpService):
    for _ in range(2):
        response = await service.client.post(
            "/v1/tasks/video/form",
            data={"prompt": "a cat"},
            files={"image_file": png()},
            headers={"Idempotency-Key": "once"},
        )
        assert response.status_code == 200, response.text
    task = await service.store.get(EVERYONE, response.json()["task_id"])
    assert list(service.artifacts.task_ids_with_files()) == [task.uid]


@pytest.mark.parametrize("other", [{"prompt": "a dog"}, {"prompt": "a cat", "seed": 1}])
async def test_the_same_idempotency_key_with_another_body_is_refused(service: HttpService, other):
    headers = {"Idempotency-Key": "once"}
    await service.client.post("/v1/tasks/video", json={"prompt": "a cat"}, headers=headers)
    response = await service.client.post("/v1/tasks/video", json=other, headers=headers)
    assert response.status_code == 422 and response.json()["code"] == "idempotency_mismatch"


async def test_the_same_idempotency_key_with_another_image_is_refused(service: HttpService):
    answers = [
        await service.client.post(
            "/v1/tasks/video/form",
            data={"prompt": "a cat"},
            files={"image_file": image},
            headers={"Idempotency-Key": "once"},
        )
        for image in (png(), png(64, 64))
    ]
    assert [answer.status_code for answer in answers] == [200, 422]


async def test_a_task_id_is_taken_once(service: HttpService):
    await service.submit(task_id="beach.1")
    response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "task_id": "beach.1"})
    assert response.status_code == 409
    assert response.json() == {"detail": "Task ID beach.1 already exists", "code": "task_exists"}


async def test_a_full_queue_refuses_with_a_whole_retry_after(service: HttpService):
    for _ in range(5):
        await service.submit()
    response = await service.client.post("/v1/tasks/video", json={"prompt": "x"})
    assert response.status_code == 429 and response.json()["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1
    await service.client.delete("/v1/tasks/all/running")
    await service.submit()


async def test_a_refused_submit_leaves_no_image_behind(service: HttpService):
    for _ in range(5):
        await service.submit()
    response = await service.client.post(
        "/v1/tasks/video/form", data={"prompt": "x"}, files={"image_file": png()}
    )
    assert response.status_code == 429
    assert list(service.artifacts.task_ids_with_files()) == []


async def test_of_many_submits_at_once_no_more_are_taken_than_the_queue_holds(service: HttpService):
    answers = await asyncio.gather(
        *(service.client.post("/v1/tasks/video", json={"prompt": "x"}) for _ in range(12))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 7


async def test_low_disk_refuses_new_tasks_in_every_form_and_says_why_the_others_wait(folder: Path):
    async with running(settings(folder)) as service:
        waiting = (await service.submit())["task_id"]
    async with running(settings(folder, limits={"min_free_bytes": 2**62})) as service:
        for path, body in (
            ("/v1/tasks/video", {"json": {"prompt": "x"}}),
            ("/v1/tasks/video/form", {"data": {"prompt": "x"}, "files": {"image_file": png()}}),
            ("/v1/videos", {"json": {"prompt": "x", "model": "demo"}}),
            ("/v1/tasks/video/again", {"json": {"task_id": waiting}}),
        ):
            response = await service.client.post(path, **body)
            assert response.status_code == 507 and "disk" in response.text, (path, response.text)
        assert list(service.artifacts.task_ids_with_files()) == []
        message = (await service.client.get(f"/v1/tasks/{waiting}/status")).json()["message"]
        assert message.endswith("The service is low on disk space and begins no task")
        ready = await service.client.get("/ready")
        assert ready.status_code == 503 and "low on disk space" in ready.json()["detail"]


async def test_clients_of_lightx2v_that_wait_for_an_idle_service_wait_for_room_on_the_disks(folder: Path):
    for least, said in ((0, "idle"), (2**62, "busy")):
        async with running(settings(folder, limits={"min_free_bytes": least})) as service:
            await service.add_replica()
            for path in ("/v1/local/video/generate/service_status", "/lightx2v/v1/service/status"):
                assert (await service.client.get(path)).json()["service_status"] == said
    body = {"task_id": "a", "prompt": "x", "save_video_path": "a.mp4"}
    async with running(settings(folder, limits={"min_free_bytes": 2**62})) as service:
        refused = await service.client.post("/v1/local/video/generate", json=body)
        assert refused.status_code == 200 and "low on disk space" in refused.json()["error"]


async def test_while_the_database_is_locked_each_submit_is_told_to_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(application, "_LOCK_PATIENCE_S", 0.05)
    async with running(settings(folder)) as service:
        earlier = (await service.submit())["task_id"]
        with closing(sqlite3.connect(folder / "data" / "tasks.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for path in ("/v1/tasks/video", "/v1/videos", "/lightx2v/v1/tasks/video"):
                refused = await service.client.post(path, json={"prompt": "x", "model": "demo"})
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5"), refused.text
            assert (await service.status(earlier))["status"] == "submitted"
            other.execute("ROLLBACK")
        assert (await service.submit())["task_id"]


async def test_a_video_can_be_saved_below_a_further_output_folder(folder: Path):
    (folder / "more").mkdir()
    async with running(settings(folder, output_roots=[folder / "more"])) as service:
        body = await service.submit(save_result_path=str(folder / "more" / "cats" / "one.mp4"))
        assert body["save_result_path"] == str(folder / "more" / "cats" / "one.mp4")


@pytest.mark.parametrize("path", ["/v1/tasks/video", "/v1/local/video/generate"])
async def test_a_submit_is_planned_once_and_looks_at_the_queue_once(
    service: HttpService, monkeypatch: pytest.MonkeyPatch, path: str
):
    await service.add_replica()
    plans: list[VideoOrder] = []
    looks: list[str] = []

    def counted_plan(order: VideoOrder, models: Sequence[ModelSettings], source: Task | None) -> Plan:
        plans.append(order)
        return plan(order, models, source)

    def counted(name: str, look: Callable[[QueueView], Awaitable[QueueSnapshot]]) -> None:
        async def counting(view: QueueView) -> QueueSnapshot:
            looks.append(name)
            return await look(view)

        monkeypatch.setattr(QueueView, name, counting)

    await service.submit()  # from here on there is a snapshot to share
    monkeypatch.setattr(submitter, "plan", counted_plan)
    recent, fresh = QueueView.recent, QueueView.fresh
    counted("recent", recent)
    if path.startswith("/v1/local"):
        await service.claim()
        await service.add_replica("demo-2")
        counted("fresh", fresh)
    body = {"task_id": "once", "prompt": "a cat", "save_video_path": "once.mp4"}
    response = await service.client.post(path, json=body)
    assert response.status_code == 200 and "error" not in response.json(), response.text
    assert len(plans) == len(looks) == 1
