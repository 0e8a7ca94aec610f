"""A client asks for an enhanced prompt, with and without a prompt enhancer in the service."""

from pathlib import Path

import pytest

from models.phase import Phase
from tests.contract.tasks import at
from tests.http.http_service import HttpService, running, settings

ENHANCER = {"url": "http://127.0.0.1:9/v1", "model": "chat"}


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
async def test_the_status_has_the_prompt_that_the_model_gets(folder: Path, form: bool):
    async with running(settings(folder, prompt_enhancer=ENHANCER)) as service:
        sent = {"prompt": "a zyzzyva", "task_id": "a"}
        if form:
            data = {**sent, "enhance_prompt": "true"}
            answered = await service.client.post("/v1/tasks/video/form", data=data)
        else:
            answered = await service.client.post("/v1/tasks/video", json={**sent, "enhance_prompt": True})
        assert answered.json()["message"] == "Task created successfully"  # the run tells of unknown words
        task = await service.claim()
        assert task.enhance_prompt and task.spec.prompt == "a zyzzyva"
        await service.ledger.report(task.uid, 1, at(0, 0.0, phase=Phase.ENHANCING))
        before = await service.status("a")
        assert (before["phase"], before["revised_prompt"]) == ("enhancing prompt", None)
        await service.ledger.report(task.uid, 1, at(0, 0.0, revised_prompt="A red ball."))
        assert (await service.status("a"))["revised_prompt"] == "A red ball."
        assert (await service.client.get("/v1/service/metadata")).json()["prompt_enhancer"] is True


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
async def test_openais_surface_takes_the_same_field_and_shows_the_prompt(folder: Path, form: bool):
    async with running(settings(folder, prompt_enhancer=ENHANCER)) as service:
        sent = {"prompt": "a zyzzyva", "enhance_prompt": "true" if form else True}
        made = await service.client.post("/v1/videos", **{"data" if form else "json": sent})  # type: ignore[arg-type]
        assert (made.json()["revised_prompt"], made.json()["notes"]) == (None, [])
        task = await service.claim()
        assert task.enhance_prompt
        await service.ledger.report(task.uid, 1, at(0, 0.0, revised_prompt="A red ball."))
        video = (await service.client.get(f"/v1/videos/{task.id}")).json()
        assert (video["prompt"], video["revised_prompt"]) == ("a zyzzyva", "A red ball.")


async def test_without_a_prompt_enhancer_it_is_a_note(service: HttpService):
    task_id = (await service.submit(enhance_prompt=True))["task_id"]
    assert not (await service.claim()).enhance_prompt
    status = await service.status(task_id)
    assert status["notes"] == ["The prompt was not enhanced: this service has no prompt enhancer."]
    assert status["revised_prompt"] is None
    assert (await service.client.get("/v1/service/metadata")).json()["prompt_enhancer"] is False


@pytest.mark.parametrize("path", ["/lightx2v/v1/tasks/video", "/v1/local/video/generate"])
async def test_lightx2vs_word_asks_for_it_too(folder: Path, path: str):
    async with running(settings(folder, prompt_enhancer=ENHANCER)) as service:
        await service.add_replica()
        sent = {
            "prompt": "a zyzzyva",
            "task_id": "a",
            "save_video_path": "a.mp4",
            "use_prompt_enhancer": True,
        }
        answer = (await service.client.post(path, json=sent)).json()
        assert answer["task_id"] == "a", answer
        assert (await service.claim()).enhance_prompt
