"""A prompt that the model does not read whole: it runs, and the client is told on every surface."""

from pathlib import Path

import pytest

from tests.contract.tasks import at
from tests.http.http_service import HttpService, running, settings

DEMO = Path("models/demo/weights").absolute()
LONG = "the " * 600 + "a red ball"


def of_demo(folder: Path, weights: Path = DEMO):
    return settings(folder, models=[{"name": "demo", "variant": "demo", "weights": str(weights)}])


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
async def test_the_answer_and_the_status_say_what_was_cut(folder: Path, field: str):
    async with running(of_demo(folder)) as service:
        body = await service.submit(**{field: LONG})
        name = f"The {field.replace('_', ' ')}"
        assert f"{name} was cut after" in body["message"]
        notes = (await service.status(body["task_id"]))["notes"]
        assert len(notes) == 1 and notes[0].startswith(name) and "512" in notes[0]


async def test_the_form_and_the_local_api_say_so_too(folder: Path):
    async with running(of_demo(folder)) as service:
        for name in ("demo-1", "demo-2"):
            await service.add_replica(name)
        form = await service.client.post("/v1/tasks/video/form", data={"prompt": LONG})
        assert "was cut after" in form.json()["message"]
        body = {"task_id": "x", "prompt": LONG, "save_video_path": "x.mp4"}
        assert "error" not in (await service.client.post("/v1/local/video/generate", json=body)).json()
        assert "was cut after" in (await service.status("x"))["message"]


async def test_a_prompt_that_is_read_whole_has_no_note(folder: Path):
    async with running(of_demo(folder)) as service:
        for prompt in ("a red ball", "the " * 500):
            body = await service.submit(prompt=prompt)
            assert body["message"] == "Task created successfully"


async def test_the_words_that_the_demo_model_does_not_know_are_told(folder: Path):
    async with running(of_demo(folder)) as service:
        body = await service.submit(prompt="A RED cat & a dog, jumping up", negative_prompt="blurry")
        notes = [
            "The prompt has words that demo does not know: cat, dog.",
            "The negative prompt has words that demo does not know: blurry.",
        ]
        assert (await service.status(body["task_id"]))["notes"] == notes
        many = " ".join(["一" * 40, *(f"word{number}" for number in range(30))])
        (note,) = (await service.status((await service.submit(prompt=many))["task_id"]))["notes"]
        assert note.endswith("一…, word0, word1, word2, word3, word4, word5, word6 and 23 more.")


async def test_notes_of_the_run_stand_behind_those_of_the_submit(folder: Path):
    async with running(of_demo(folder)) as service:
        task_id = (await service.submit(prompt="a cat"))["task_id"]
        task = await service.claim()
        assert await service.ledger.report(task.uid, 1, at(1, 0.1, notes=(*task.notes, "Cut.")))
        status = await service.status(task_id)
        assert status["notes"] == ["The prompt has words that demo does not know: cat.", "Cut."]
        assert status["message"].endswith("does not know: cat. Cut.")


@pytest.mark.parametrize("content", [None, "{}"])
async def test_a_model_without_a_readable_tokenizer_takes_long_prompts(folder: Path, content: str | None):
    if content is not None:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "tokenizer.json").write_text(content)
    async with running(of_demo(folder, folder)) as service:
        assert (await service.submit(prompt=LONG))["message"] == "Task created successfully"


async def test_a_hubs_model_that_is_not_here_is_not_fetched(folder: Path, service: HttpService):
    models = [{"name": "demo", "variant": "demo", "weights": "nobody/nothing-of-this-name"}]
    async with running(settings(folder, models=models)) as served:
        assert (await served.submit(prompt=LONG))["message"] == "Task created successfully"
