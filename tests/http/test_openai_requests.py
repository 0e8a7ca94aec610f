"""Requests for a video as different clients of OpenAI's shape write them, and how they are refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.settings import AppSettings
from serve_app.tasks.task import Task
from tests.http.http_service import HttpService, as_text, png, refusal_of, running, settings
from tests.http.lora_file import save
from tests.http.test_loras import FITTING

VIDEOS = "/v1/videos"
PICTURE = as_text(png())
PROMPT = {"prompt": "a red ball"}
FIRST = {"type": "image_url", "image_url": {"url": PICTURE}, "frame_type": "first_frame"}


async def claimed(service: HttpService, **request: Any) -> Task:
    """Submit a request and return the task that it made."""
    response = await service.client.post(VIDEOS, **request)
    assert response.status_code == 200, response.text
    return await service.claim()


def with_loras(folder: Path) -> AppSettings:
    """Return the settings of the demo model with two LoRAs."""
    for name in ("anime", "clay"):
        save(folder / "loras" / f"{name}.safetensors", FITTING)
    loras = str(folder / "loras")
    model = {"name": "demo", "variant": "demo", "weights": ".", "lora_folder": loras}
    return settings(folder, models=[model])


def parts(*fields: tuple[str, str]) -> list[tuple[str, tuple[None, str]]]:
    return [(name, (None, text)) for name, text in fields]


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {**PROMPT, "seconds": "2", "size": "96x64", "seed": 7, "num_inference_steps": 3}},
        {"json": {**PROMPT, "seconds": 2, "width": 96, "height": 64, "seed": 7, "num_inference_steps": 3}},
        {
            "json": {
                **PROMPT,
                "size": [64, 96],
                "extra_params": {"num_frames": 17, "seed": 7},
                "extra_body": {"num_inference_steps": 3},
            }
        },
        {
            "json": {
                **PROMPT,
                "duration": 2,
                "resolution": "64p",
                "aspect_ratio": "3:2",
                "seed": 7,
                "num_inference_steps": 3,
            }
        },
        {"data": {**PROMPT, "duration": "2", "resolution": "64P", "seed": "7", "num_inference_steps": "3"}},
        {"data": {**PROMPT, "seconds": "2.0", "size": "96x64", "seed": "7", "num_inference_steps": "3"}},
        {
            "files": parts(
                ("prompt", "a red ball"),
                ("extra_body[seed]", "7"),
                ("extra_body[num_inference_steps]", "3"),
                ("extra_params", '{"size": "96x64", "num_frames": 17, "fps": 8}'),
            )
        },
    ],
    ids=["json", "numbers", "extras", "openrouter", "openrouter_form", "urlencoded", "brackets"],
)
async def test_every_spelling_of_a_request_makes_the_same_video(
    service: HttpService, request_: dict[str, Any]
):
    spec = (await claimed(service, **request_)).spec
    assert (spec.prompt, spec.width, spec.height, spec.num_frames) == ("a red ball", 96, 64, 17)
    assert (spec.fps, spec.seed, spec.steps) == (8, 7, 3)


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {**PROMPT, "input_reference": PICTURE}},
        {"json": {**PROMPT, "image_reference": {"image_url": f"data:image/png;base64,{PICTURE}"}}},
        {"data": {**PROMPT, "reference_url": f"data:image/png;base64,{PICTURE}"}},
        {"data": {**PROMPT, "input_reference[image_url]": f"data:image/png;base64,{PICTURE}"}},
        {"data": {**PROMPT, "image_reference": json.dumps({"image_url": {"url": PICTURE}})}},
        {"data": PROMPT, "files": {"input_reference": ("x.txt", png(), "text/plain")}},
        {"data": PROMPT, "files": {"input_reference": ("clip.mp4", png(), "video/mp4")}},
        {"data": PROMPT, "files": {"input_reference": (None, png(), "application/octet-stream")}},
    ],
    ids=["base64", "object", "url", "brackets", "json_text", "text_file", "video_file", "unnamed"],
)
async def test_a_picture_is_known_by_its_bytes_wherever_it_stands(
    service: HttpService, request_: dict[str, Any]
):
    task = await claimed(service, **request_)
    assert task.spec.image_key is not None
    assert PICTURE not in str(task.request), "no picture is kept in the record"


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {**PROMPT, "lora": "anime"}},
        {"json": {**PROMPT, "lora": {"path": "/loras/anime.safetensors", "scale": 1.0, "int_id": 3}}},
        {"json": {**PROMPT, "loras": [{"name": "anime"}]}},
        {"data": {**PROMPT, "lora": '{"name": "anime"}'}},
        {"files": parts(("prompt", "a red ball"), ("loras[][name]", "anime"), ("loras[][strength]", "1"))},
        {"files": parts(("prompt", "a red ball"), ("loras[0][name]", "anime"))},
    ],
    ids=["name", "object", "list", "json_text", "brackets", "numbers"],
)
async def test_a_lora_is_named_in_the_words_of_any_client(folder: Path, request_: dict[str, Any]):
    async with running(with_loras(folder)) as service:
        (use,) = (await claimed(service, **request_)).spec.loras
        assert (use.name, use.strength) == ("anime", 1.0)


@pytest.mark.slow
async def test_loras_that_a_client_spreads_over_names_are_put_together(folder: Path):
    sent = parts(
        ("prompt", "a red ball"),
        *[("loras[][name]", "anime"), ("loras[][name]", "clay")],
        *[("loras[][strength]", "0.5"), ("loras[][strength]", "0.7")],
    )
    async with running(with_loras(folder)) as service:
        task = await claimed(service, files=sent)
        assert [(use.name, use.strength) for use in task.spec.loras] == [("anime", 0.5), ("clay", 0.7)]
        refused = await service.client.post(VIDEOS, files=sent[:-1])
        assert (refused.status_code, refusal_of(refused)["field"]) == (422, "loras")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"seconds": "0"}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"seconds": "601"}, "seconds"),
        ({"duration": 0}, "duration"),
        ({"duration": 5, "seconds": "5"}, "duration"),
        ({"resolution": "4K"}, "resolution"),
        ({"resolution": 720}, "resolution"),
        ({"size": "big"}, "size"),
        ({"size": "96x64", "width": 80}, "size"),
        ({"num_inference_steps": 999}, "num_inference_steps"),
        ({"num_inference_steps": "4"}, "num_inference_steps"),
        ({"n": 2}, "n"),
        ({"model": "sora-2"}, "model"),
        ({"lora": "unknown"}, "lora"),
        ({"lora": {"name": "a", "strength": 99}}, "lora[0].strength"),
        ({"lora": 7}, "lora"),
        ({"input_reference": {"file_id": "file-1"}}, "input_reference"),
        ({"input_reference": 7}, "input_reference"),
        ({"input_reference": PICTURE, "reference_url": PICTURE}, "reference_url"),
        ({"reference_url": "http://example.com/cat.png"}, "reference_url"),
        ({"frame_images": [PICTURE]}, "frame_images"),
        ({"frame_images": [{"image_url": PICTURE, "frame_type": "middle_frame"}]}, "frame_images"),
        ({"frame_images": [FIRST, FIRST]}, "frame_images"),
        ({"frame_images": [{**FIRST, "image_url": ""}]}, "frame_images[0].image_url"),
        (
            {"frame_images": [{**FIRST, "image_url": "http://example.com/cat.png"}]},
            "frame_images[0].image_url",
        ),
        ({"frame_images": [{**FIRST, "frame_type": "last_frame"}]}, "frame_images[0].image_url"),
        ({"frame_images": [FIRST], "input_reference": PICTURE}, "frame_images[0].image_url"),
        ({"extra_body": "x"}, "extra_body"),
        ({"seed": 1, "extra_params": {"seed": 2}}, "extra_params"),
    ],
)
async def test_a_refusal_names_the_field_that_was_sent(
    service: HttpService, fields: dict[str, Any], param: str
):
    response = await service.client.post(VIDEOS, json={**PROMPT, **fields})
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_field", param)
    assert len(error["message"]) > 10 and response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("name", ["input_reference", "video", "mask"])
async def test_a_file_as_text_with_half_a_surrogate_is_refused(service: HttpService, name: str):
    body = json.dumps({**PROMPT, name: "\ud800"}).encode()
    response = await service.client.post(
        f"{VIDEOS}/edits", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, refusal_of(response)["field"]) == (422, name), response.text
    assert "Unicode" in refusal_of(response)["detail"]


async def test_a_field_that_is_not_read_is_named(service: HttpService):
    task = await claimed(service, data={**PROMPT, "user": "me", "extra_params[boundary_ratio]": "0.9"})
    assert "Unknown fields were ignored: user, boundary_ratio." in task.notes


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/videos/unknown", 404, "task_not_found"),
        ("GET", "/v1/videos/waiting/nothing", 404, "not_found"),
        ("PUT", "/v1/videos/waiting", 405, "method_not_allowed"),
        ("GET", "/v1/videos?limit=0", 422, "invalid_field"),
        ("GET", "/v1/videos?order=up", 422, "invalid_field"),
        ("GET", "/v1/videos/waiting/content", 409, "result_not_ready"),
        ("GET", "/v1/videos/done/content?variant=gif", 422, "invalid_field"),
        ("GET", "/v1/videos/done/content?variant=thumbnail", 404, "file_not_found"),
        ("POST", "/v1/videos/characters", 400, "unsupported"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ],
)
async def test_every_refusal_has_openais_shape(
    service: HttpService, method: str, path: str, status: int, code: str
):
    await service.finished(task_id="done")  # of bytes that are no video
    await service.submit(task_id="waiting")
    response = await service.client.request(method, path)
    assert (response.status_code, refusal_of(response)["code"]) == (status, code), response.text
    assert response.headers["x-should-retry"] == "false"


async def test_a_body_that_is_too_large_is_refused_in_openais_shape(folder: Path):
    async with running(
        settings(folder, limits={"max_image_bytes": 1000, "max_video_bytes": 1000})
    ) as service:
        response = await service.client.post(VIDEOS, content=b" " * 2_000_000)
        assert (response.status_code, refusal_of(response)["code"]) == (413, "too_large")


async def test_a_client_is_told_to_try_again_only_where_that_helps(service: HttpService):
    for _ in range(5):
        await service.submit()
    full = await service.client.post(VIDEOS, json=PROMPT)
    assert full.status_code == 429 and full.headers["x-should-retry"] == "true"
    assert int(full.headers["retry-after"]) <= 120


async def test_a_repeated_request_with_a_key_makes_one_video(service: HttpService):
    headers = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(
        *(service.client.post(VIDEOS, json=PROMPT, headers=headers) for _ in range(3))
    )
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_ranges_and_the_number_of_the_video_are_taken(service: HttpService):
    await service.finished(task_id="done")
    part = await service.client.get(
        "/v1/videos/done/content", params={"variant": 0}, headers={"Range": "bytes=1-3"}
    )
    assert (part.status_code, part.content) == (206, bytes([1, 2, 3]))
    assert part.headers["content-type"] == "video/mp4"
    past = await service.client.get("/v1/videos/done/content", headers={"Range": "bytes=99999-"})
    assert (past.status_code, refusal_of(past)["code"]) == (416, "range_not_satisfiable")
