"""What a task was made from: its settings and its pictures, for a page that fills its form with them."""

from typing import Any

from serve_app.media.source_image import SourceImage
from tests.http.http_service import PREVIEW, HttpService, as_text, png


async def test_the_settings_of_a_task_make_the_same_video(service: HttpService):
    sent: dict[str, Any] = {
        "prompt": "a red ball",
        "infer_steps": 7,
        "num_frames": 9,
        "width": 64,
        "height": 96,
    }
    first = (await service.submit(**sent))["task_id"]
    answer = (await service.client.get(f"/v1/tasks/{first}/settings")).json()
    assert answer["inputs"] == [] and answer["settings"].items() >= sent.items()
    await service.submit(**answer["settings"])
    one, other = await service.claim(), await service.claim()
    assert one.spec == other.spec and one.model == other.model


async def test_a_task_names_its_prompt_and_its_pictures_and_sends_them(service: HttpService):
    task_id = (await service.submit(prompt="it jumps", image_path=as_text(png(96, 64))))["task_id"]
    status = await service.status(task_id)
    assert (status["prompt"], status["inputs"]) == ("it jumps", ["image_path"])
    picture = await service.client.get(f"/v1/tasks/{task_id}/input?field=image_path")
    image = SourceImage.from_png(picture.content)
    assert (image.width, image.height) == (96, 64) and picture.headers["content-type"] == "image/png"
    known = {"If-None-Match": picture.headers["etag"]}
    again = await service.client.get(f"/v1/tasks/{task_id}/input", headers=known)
    assert again.status_code == 304
    missing = await service.client.get(f"/v1/tasks/{task_id}/input?field=../tasks.db")
    assert (missing.status_code, missing.json()["code"]) == (404, "file_not_found")


async def test_a_preview_that_is_not_there_can_be_an_empty_answer(service: HttpService):
    task_id = (await service.submit())["task_id"]
    task = await service.claim()
    address = f"/v1/tasks/{task_id}/preview"
    assert (await service.client.get(address)).status_code == 404
    assert (await service.client.get(f"{address}?empty=true")).status_code == 204
    service.artifacts.put_preview(task.uid, task.attempt, still=PREVIEW, strip=PREVIEW)
    assert (await service.client.get(f"{address}?empty=true")).content == PREVIEW


async def test_the_metadata_offers_sizes_that_are_taken_as_they_are(service: HttpService):
    (model,) = (await service.client.get("/v1/service/metadata")).json()["models"]
    assert len(model["sizes"]) >= 3
    for size in model["sizes"]:
        status = await service.status(
            (await service.submit(width=size["width"], height=size["height"]))["task_id"]
        )
        assert (status["width"], status["height"], status["notes"]) == (size["width"], size["height"], [])
    assert [preset["name"] for preset in model["presets"]] == ["fast", "quality"]
    assert model["presets"][1]["infer_steps"] == model["defaults"]["infer_steps"]
