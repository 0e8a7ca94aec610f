"""What each surface says of a task whose model was taken out of the configuration."""

from datetime import datetime
from pathlib import Path

import pytest

from serve_app.coordinator.removed_models import RemovedModels
from serve_app.tasks.caller import EVERYONE
from tests.contract.tasks import ADMISSION, new
from tests.http.http_service import HttpService, running, settings


async def test_a_waiting_task_says_when_it_fails_unless_its_model_comes_back(service: HttpService):
    task = await service.store.submit(new("a", model="old"), ADMISSION)
    said, _, moment = (await service.status("a"))["message"].rpartition(" ")
    assert said == (
        "Waiting in the queue, number 1. The model old is not served any more: unless that or one that "
        "replaces it is again, the task fails on"
    )
    after_s = datetime.fromisoformat(moment).timestamp() - task.created_at
    assert after_s >= service.settings.tasks.removed_after_s - 1


async def test_every_surface_has_the_words_of_the_failure(folder: Path):
    rules = {"removed_after_s": 0.03, "janitor_period_s": 0.01}
    async with running(settings(folder, tasks=rules)) as service:
        await service.store.submit(new("a", model="old"), ADMISSION)
        config = service.settings
        looking = RemovedModels(service.database, service.ledger, config.models, config.tasks, lambda _: None)
        while not (await service.status("a"))["error"]:
            await looking.look()
        error = {"code": "model_removed", "message": "The model old is not served any more"}
        get = service.client.get
        assert (await get("/v1/tasks/a/status")).json()["error"] == error
        assert (await get("/v1/videos/a")).json()["error"] == error
        lightx2v = (await get("/lightx2v/v1/tasks/a/status")).json()
        assert (lightx2v["error"], lightx2v["error_type"]) == (error["message"], error["code"])
        local = await service.client.post("/v1/local/video/generate/task_status", json={"task_id": "a"})
        assert local.json()["error"] == error["message"]


@pytest.mark.parametrize("surface", ["native", "lightx2v", "openai"])
async def test_a_submit_that_names_a_removed_model_is_taken_for_its_successor_and_says_so(
    folder: Path, surface: str
):
    demo = {"variant": "demo", "weights": folder}
    models = ({"name": "first", **demo}, {"name": "new", "replaces": ["old"], **demo})
    submit, status = {
        "native": ("/v1/tasks/video", "/v1/tasks/{}/status"),
        "lightx2v": ("/lightx2v/v1/tasks/video", "/lightx2v/v1/tasks/{}/status"),
        "openai": ("/v1/videos", "/v1/videos/{}"),
    }[surface]
    async with running(settings(folder, models=models)) as service:
        order = {"prompt": "a red ball", "model": "old"}
        answer = (await service.client.post(submit, json=order)).json()
        name = answer.get("task_id") or answer["id"]
        said = (await service.client.get(status.format(name))).json()
        task = await service.store.get(EVERYONE, name)
    note = "The model old is not served any more; new, which replaces it, makes the video."
    assert note in (answer["message"] if surface == "lightx2v" else said["notes"])
    assert (task.model, task.request["model"]) == ("new", "old")
