"""The service's status pages: health, readiness, models, queue and replicas."""

import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from serve_app.api.native.video_request import VideoRequest
from serve_app.config.settings import AppSettings, TaskSettings
from serve_app.tasks.replica import Health, Scale
from tests.http.http_service import HttpService, running, settings


async def test_a_service_is_alive_at_once_and_ready_with_its_first_replica(service: HttpService):
    assert (await service.client.get("/health")).json() == {"status": "ok"}
    response = await service.client.get("/v1/service/status")
    assert response.json()["service_status"] == "busy"
    await service.add_replica()
    assert (await service.client.get("/ready")).status_code == 200


async def test_a_service_without_a_replica_is_not_ready(service: HttpService):
    await service.add_replica(seen_at=1.0)
    response = await service.client.get("/ready")
    assert response.status_code == 503 and response.json()["code"] == "no_replica"


async def test_a_replica_counts_until_it_missed_three_heartbeats_however_slow_they_are(folder: Path):
    slowest = TaskSettings().lease_s / 3
    with pytest.raises(ValidationError, match="lease_s"):
        TaskSettings(heartbeat_s=slowest * 1.01)
    async with running(settings(folder, tasks={"heartbeat_s": slowest})) as service:
        for missed, ready in ((2.5, 200), (3.5, 503)):
            await service.add_replica(seen_at=time.time() - missed * slowest)
            assert (await service.client.get("/ready")).status_code == ready
            status = (await service.client.get("/v1/service/status")).json()
            local = (await service.client.get("/v1/local/video/generate/service_status")).json()
            word = "idle" if ready == 200 else "busy"
            assert (status["service_status"], local["service_status"]) == (word, word)


def from_zero(folder: Path) -> AppSettings:
    rules = {"min_replicas": 0, "max_replicas": 4}
    model = {"name": "demo", "variant": "demo", "weights": folder, "autoscaling": rules}
    return settings(folder, models=[model])


async def test_a_model_that_scales_from_zero_is_ready_and_says_that_it_is_being_started(folder: Path):
    async with running(from_zero(folder)) as service:
        assert (await service.client.get("/ready")).status_code == 200
        await service.fleet.note_scale(Scale("demo", 0, failing=False))
        submitted = await service.submit()
        started = "The model demo has no replica up and is being started"
        assert submitted["message"] == f"Task created successfully. {started}"
        status = await service.status(submitted["task_id"])
        assert status["message"] == f"Waiting in the queue, number 1. {started}"
        await service.add_replica()
        await service.client.get("/v1/service/status")  # looks anew, where a submit may use an older look
        assert started not in (await service.submit())["message"]


async def test_a_model_that_cannot_be_started_says_so_to_those_that_wait(folder: Path):
    async with running(from_zero(folder)) as service:
        await service.fleet.note_scale(Scale("demo", 0, failing=False))
        await service.fleet.note_scale(Scale("demo", 1, failing=True))
        assert "the last attempts to start one failed" in (await service.submit())["message"]


async def test_the_status_and_the_metadata_tell_how_a_model_scales(folder: Path):
    async with running(from_zero(folder)) as service:
        await service.fleet.note_scale(Scale("demo", 3, failing=False))
        status = (await service.client.get("/v1/service/status")).json()["models"]["demo"]
        assert (status["replicas"], status["wanted_replicas"]) == (0, 3)
        (model,) = (await service.client.get("/v1/service/metadata")).json()["models"]
        scaling = model["autoscaling"]
        assert (scaling["min_replicas"], scaling["max_replicas"], scaling["by"]) == (0, 4, "work")


async def test_a_service_is_idle_while_any_replica_can_take_work(service: HttpService):
    await service.add_replica("demo-1")
    await service.add_replica("demo-2")
    said = [(await service.client.get("/v1/service/status")).json()["service_status"]]
    for _ in range(2):
        await service.submit()
        await service.claim()
        said.append((await service.client.get("/v1/service/status")).json()["service_status"])
    assert said == ["idle", "idle", "busy"]


async def test_the_service_status_counts_everything(service: HttpService):
    await service.add_replica()
    await service.finished()
    running_id = (await service.submit())["task_id"]
    await service.claim()
    await service.submit()
    status = (await service.client.get("/v1/service/status")).json()
    assert status["current_task"] == running_id and status["active_tasks"] == [running_id]
    assert (status["pending_tasks"], status["total_tasks"], status["completed_tasks"]) == (1, 3, 1)
    assert (status["failed_tasks"], status["queue_size"]) == (0, 5)
    demo = status["models"]["demo"]
    assert demo["replicas"] == 1
    assert demo["devices"] == [{"replica": "demo-1", "device": "cpu", "ranks": 1, "health": "BUSY"}]


async def test_the_queue_status_tells_the_room_left(service: HttpService):
    await service.submit()
    await service.submit()
    await service.claim()
    assert (await service.client.get("/v1/tasks/queue/status")).json() == {
        "is_processing": True,
        "current_task": (await service.store.running())[0].id,
        "pending_count": 1,
        "active_count": 1,
        "queue_size": 5,
        "queue_available": 4,
        "paused": False,
        "paused_models": [],
    }


async def test_the_metadata_tells_models_defaults_and_limits(service: HttpService):
    metadata = (await service.client.get("/v1/service/metadata")).json()
    (model,) = metadata["models"]
    assert (model["name"], model["tasks"]) == ("demo", ["i2v", "t2v"])
    assert (model["defaults"]["infer_steps"], model["defaults"]["width"]) == (20, 160)
    assert model["example_prompts"][0] == "a red ball moving left to right on a blue background"
    assert metadata["limits"]["max_queued"] == 5


async def test_every_field_is_documented_with_an_example_and_numbers_with_bounds(service: HttpService):
    document = (await service.client.get("/openapi.json")).json()
    for path, content_type in (
        ("/v1/tasks/video", "application/json"),
        ("/v1/tasks/video/form", "multipart/form-data"),
    ):
        body = document["paths"][path]["post"]["requestBody"]["content"][content_type]["schema"]
        assert set(VideoRequest.model_fields) <= set(body["properties"])
        for name in VideoRequest.model_fields:
            field = body["properties"][name]
            assert field["description"] and field["examples"], name
            if field["type"] in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & field.keys() and "maximum" in field, name
    form = document["paths"]["/v1/tasks/video/form"]["post"]["requestBody"]["content"]
    assert form["multipart/form-data"]["schema"]["properties"]["image_file"]["format"] == "binary"


async def test_the_documented_examples_are_taken(service: HttpService):
    document = (await service.client.get("/openapi.json")).json()
    schema = document["paths"]["/v1/tasks/video"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    example = {name: field["examples"][0] for name, field in schema["properties"].items()}
    del example["guidance_scale_2"]  # for models with two experts
    del example["loras"]  # for models with a folder of them
    del example["continue_from"]  # of a task of the same client
    for name in ("video", "mask", "control_scale", "reference_images"):  # for VACE's models
        del example[name]
    response = await service.client.post("/v1/tasks/video", json=example)
    assert response.status_code == 200, response.text


async def test_a_form_shows_examples_and_begins_with_what_is_required(service: HttpService):
    document = (await service.client.get("/openapi.json")).json()
    content = document["paths"]["/v1/tasks/video/form"]["post"]["requestBody"]["content"]
    fields = content["multipart/form-data"]["schema"]["properties"]
    begun = {name: fields[name]["examples"][0] for name in VideoRequest.model_fields}
    assert [name for name, value in begun.items() if value] == ["prompt"]
    assert fields["fps"]["description"].endswith("Example: `16`")
    assert "above 0 and up to 600" in fields["video_duration"]["description"]
    form = {name: (None, value) for name, value in begun.items() if isinstance(value, str)}
    response = await service.client.post("/v1/tasks/video/form", files=form)
    assert response.status_code == 200, response.text
    words = "The prompt has words that demo does not know: "
    example = "cat, sitting, by, beach, under, sunset, sky"
    assert response.json()["message"] == f"Task created successfully. {words}{example}."


async def test_the_first_model_that_can_is_chosen(folder: Path):
    models = [
        {"name": "text", "variant": "wan2.1-t2v-1.3b", "weights": folder},
        {"name": "both", "variant": "demo", "weights": folder},
    ]
    async with running(settings(folder, models=models)) as service:
        from_text = await service.submit()
        assert (await service.status(from_text["task_id"]))["model"] == "text"
        response = await service.client.post(
            "/v1/tasks/video",
            json={"prompt": "x", "model": "text", "image_path": "data:image/png;base64,AAAA"},
        )
        assert response.status_code == 422 and response.json()["field"] == "image_path"
        oversize = {"prompt": "x", "video_duration": 60}
        response = await service.client.post("/v1/tasks/video", json=oversize)
        assert response.status_code == 422 and response.json()["field"] == "video_duration"


@pytest.mark.parametrize("health", [Health.STARTING, Health.DRAINING, Health.SETUP_FAILED, Health.POISONED])
async def test_a_replica_that_takes_no_task_is_told_and_not_counted(service: HttpService, health: Health):
    await service.add_replica(health=health, reason="The model could not be loaded.")
    status = (await service.client.get("/v1/service/status")).json()
    assert (status["service_status"], status["models"]["demo"]["replicas"]) == ("busy", 0)
    (device,) = status["models"]["demo"]["devices"]
    assert (device["health"], device["reason"]) == (health, "The model could not be loaded.")
    assert (await service.client.get("/ready")).json()["code"] == "no_replica"
    await service.add_replica("demo-2")
    status = (await service.client.get("/v1/service/status")).json()
    assert (status["service_status"], status["models"]["demo"]["replicas"]) == ("idle", 1)
    assert sorted(device["health"] for device in status["models"]["demo"]["devices"]) == sorted(
        [health, "READY"]
    )
    assert (await service.client.get("/ready")).status_code == 200


async def test_a_bad_end_is_told_for_a_while_and_silence_is_not(service: HttpService):
    lately = time.time() - 6 * service.settings.tasks.heartbeat_s
    await service.add_replica("failed", health=Health.SETUP_FAILED, seen_at=lately)
    await service.add_replica("poisoned", health=Health.POISONED, seen_at=lately)
    await service.add_replica("silent", seen_at=lately)
    devices = (await service.client.get("/v1/service/status")).json()["models"]["demo"]["devices"]
    assert sorted(device["replica"] for device in devices) == ["failed", "poisoned"]


async def test_a_replica_that_drains_ends_its_run_and_keeps_no_other_from_being_free(service: HttpService):
    await service.add_replica("demo-1", health=Health.DRAINING)
    await service.add_replica("demo-2")
    task_id = (await service.submit())["task_id"]
    await service.claim()
    status = (await service.client.get("/v1/service/status")).json()
    assert (status["service_status"], status["active_tasks"]) == ("idle", [task_id])
    model = status["models"]["demo"]
    assert (model["replicas"], model["running"]) == (1, 1)
    assert {device["replica"]: device["health"] for device in model["devices"]} == {
        "demo-1": "DRAINING",
        "demo-2": "READY",
    }


async def test_a_draining_service_says_so_and_takes_no_task(service: HttpService):
    await service.add_replica()
    task_id = (await service.submit())["task_id"]
    await service.claim()
    await service.ledger.drain()
    for refused in (
        await service.client.get("/ready"),
        await service.client.post("/v1/tasks/video", json={"prompt": "a cat"}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["Retry-After"]) > 0
    body = {"task_id": "late", "prompt": "a cat", "save_video_path": "late.mp4"}
    answer = await service.client.post("/v1/local/video/generate", json=body)
    assert answer.json() == {"error": "Service busy"}
    status = (await service.client.get("/v1/service/status")).json()
    assert [device["health"] for device in status["models"]["demo"]["devices"]] == ["DRAINING"]
    assert (status["service_status"], status["active_tasks"]) == ("busy", [task_id])
    assert (await service.status(task_id))["status"] == "running"
