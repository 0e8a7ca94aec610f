"""Pictures and videos on the OpenAI surface, in the names and forms of its clients."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from serve_app.media.video_writer import VideoWriter
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from serve_app.tasks.video_output import Codec, VideoFormat, VideoOutput
from tests.http.http_service import (
    LAST_FRAME,
    HttpService,
    as_text,
    png,
    reference_sizes,
    refusal_of,
    running,
    settings,
)

MODELS = {
    "models": [
        {"name": "plain", "variant": "demo", "weights": "."},
        {"name": "vace", "variant": "wan2.1-vace-1.3b", "weights": "."},
    ]
}
SMALL: dict[str, Any] = {"prompt": "a red ball", "size": "96x64", "num_frames": 5, "num_inference_steps": 1}
FORM = {name: str(value) for name, value in SMALL.items()}
TWO = (png(40, 30), png(16, 48))
SIZES = [(40, 30), (16, 48)]
PICTURES = [as_text(data) for data in TWO]
URLS = [f"data:image/png;base64,{text}" for text in PICTURES]


def clip_of(path: Path, *, frames: int, white: bool = False) -> bytes:
    with VideoWriter(path, width=96, height=64, fps=16) as writer:
        writer.write(np.full((frames, 64, 96, 3), 255 if white else 90, np.uint8))
    return path.read_bytes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of nine frames."""
    return clip_of(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=9)


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return clip_of(tmp_path_factory.mktemp("clip") / "mask.mp4", frames=1, white=True)


@pytest_asyncio.fixture
async def service(folder: Path) -> AsyncIterator[HttpService]:
    """The service with a model of each kind."""
    async with running(settings(folder, **MODELS)) as service:
        yield service


async def made(service: HttpService, path: str = "/v1/videos", **request: Any) -> Task:
    """Submit a request and return the task that it made."""
    response = await service.client.post(path, **request)
    assert response.status_code == 200, response.text
    return await service.store.get(EVERYONE, response.json()["id"])


def texts(*fields: tuple[str, str]) -> list[tuple[str, tuple[None, str]]]:
    return [(name, (None, text)) for name, text in (*FORM.items(), *fields)]


def files(name: str, *data: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [(name, ("file", each)) for each in data]


async def test_references_come_under_either_name_and_in_every_form(service: HttpService):
    as_objects = [{"type": "image_url", "image_url": {"url": url}} for url in URLS]
    for request in (
        {"json": {**SMALL, "input_references": PICTURES}},
        {"json": {**SMALL, "extra_body": {"reference_images": as_objects}}},
        {"data": FORM, "files": files("input_references", *TWO)},
        {"data": FORM, "files": files("input_references[]", *TWO)},
        {"data": {**FORM, "reference_images": json.dumps(PICTURES)}},
        {"files": texts(*[("input_references[][image_url]", url) for url in URLS])},
    ):
        task = await made(service, **request)
        assert (task.model, reference_sizes(service, task)) == ("vace", SIZES), request
        assert PICTURES[0] not in json.dumps(task.request), "no picture is kept in the record"


def spellings_of_videos(clip: bytes, mask: bytes) -> Iterator[dict[str, Any]]:
    text, of_mask = as_text(clip), as_text(mask)
    url = f"data:video/mp4;base64,{text}"
    yield {"json": {**SMALL, "video": text, "mask": of_mask}}
    yield {"json": {**SMALL, "video_reference": {"video_url": url}, "mask": {"video_url": of_mask}}}
    yield {"json": {**SMALL, "video_url": url, "mask": of_mask}}
    yield {"json": {**SMALL, "input_reference": url, "mask": of_mask}}
    yield {"data": FORM, "files": files("video", clip) + files("mask", mask)}
    yield {"data": FORM, "files": files("input_reference", clip) + files("mask", mask)}
    yield {"files": [*texts(("video_reference[video_url]", url)), *files("mask", mask)]}


@pytest.mark.slow
async def test_a_video_and_its_mask_come_under_each_name_and_in_every_form(
    service: HttpService, clip: bytes, mask: bytes
):
    for request in spellings_of_videos(clip, mask):
        task = await made(service, **request)
        assert task.model == "vace" and task.spec.image_key is None
        assert task.spec.video_key is not None and task.spec.mask_key is not None
        assert as_text(clip)[:99] not in json.dumps(task.request)
        assert as_text(mask)[:99] not in json.dumps(task.request)


async def test_a_last_frame_stands_beside_a_first(service: HttpService):
    pictures = {"input_reference": PICTURES[0], "last_frame_path": {"image_url": URLS[1]}}
    uploads = files("input_reference", TWO[0]) + files("last_frame_path", TWO[1])
    for request in ({"json": {**SMALL, **pictures}}, {"data": FORM, "files": uploads}):
        task = await made(service, **request)
        assert task.spec.image_key and task.spec.last_image_key


async def test_frames_are_known_by_their_type_whichever_comes_first(service: HttpService):
    request = {"prompt": "a red ball", "duration": 1, "resolution": "480p", "num_inference_steps": 1}
    frames: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}, "frame_type": frame_type}
        for url, frame_type in zip(reversed(URLS), ("last_frame", "first_frame"), strict=True)
    ]
    spread = [
        field
        for frame in frames
        for field in (
            ("frame_images[][image_url][url]", frame["image_url"]["url"]),
            ("frame_images[][frame_type]", frame["frame_type"]),
        )
    ]
    as_form = [(name, (None, str(value))) for name, value in request.items()]
    for sent in (
        {"json": {**request, "frame_images": frames}},
        {"json": {**request, "frame_images": frames[::-1]}},
        {"data": {**request, "frame_images": json.dumps(frames)}},
        {"files": as_form + [(name, (None, value)) for name, value in spread]},
    ):
        task = await made(service, **sent)
        assert task.spec.image_key and task.spec.last_image_key
        # The shape is the first frame's, 4:3.
        assert (task.spec.width, task.spec.height, task.spec.num_frames) == (720, 544, 17), sent
        shown = task.request["frame_images"]
        assert [frame["frame_type"] for frame in shown] == ["last_frame", "first_frame"] or "json" in sent
        assert not any(picture in json.dumps(task.request) for picture in PICTURES)


async def test_a_resolution_is_of_the_models_own_kind_or_refused(service: HttpService):
    request = {**SMALL, "size": None, "model": "vace"}
    tall = await made(service, json={**request, "resolution": "480p", "aspect_ratio": "9:16"})
    assert (tall.spec.width, tall.spec.height) == (480, 832)
    refused = await service.client.post("/v1/videos", json={**request, "resolution": "1080p"})
    assert (refused.status_code, refusal_of(refused)["field"]) == (422, "resolution")
    await service.submit(task_id="a", width=96, height=64, num_frames=9, fps=16, model="plain")
    await service.publish(await service.claim("plain"))
    longer = {"prompt": "it stops", "video": {"id": "a"}, "resolution": "480p"}
    refused = await service.client.post("/v1/videos/extensions", json=longer)
    assert (refused.status_code, refusal_of(refused)["field"]) == (422, "resolution"), refused.text


@pytest.mark.slow
async def test_a_video_is_edited_and_made_longer_by_its_id(service: HttpService, clip: bytes):
    await service.submit(task_id="a", width=96, height=64, num_frames=9, fps=16, model="plain")
    await service.publish(await service.claim("plain"), clip)
    edited = await made(service, "/v1/videos/edits", json={"prompt": "a blue ball", "video": {"id": "a"}})
    assert (edited.model, edited.spec.num_frames, edited.spec.prompt) == ("vace", 9, "a blue ball")
    assert edited.spec.video_key is not None and edited.request["video"] == {"id": "a"}
    form = texts(("video[id]", "a"), ("control_scale", "0.5"))
    assert (await made(service, files=form)).spec.control_scale == 0.5
    assert (await made(service, "/v1/videos/edits", data=FORM, files=files("video", clip))).spec.video_key
    sent = {"prompt": "it stops", "video_reference": {"video_url": as_text(clip)}}
    longer = {"prompt": "it stops", "video": {"id": "a"}, "seconds": "1", "model": "plain"}
    for path, body, kept, frames in (
        ("/v1/videos/extensions", longer, (9,), 9 + 16),
        ("/v1/videos/extensions", {**longer, "num_fragments": 2}, (9,), 9 + 32),
        ("/v1/videos", {"continue_from": {"id": "a"}, "model": "plain"}, (), 8),
        ("/v1/videos", {"continue_from": {"task_id": "a", "fragments": 1}, "num_fragments": 2}, (9,), 17),
    ):
        task = await made(service, path, json=body)
        assert task.spec.continues is not None and task.spec.continues.kept_ends == kept
        assert task.spec.total_frames == frames, body
    for request in ({"data": {"prompt": "it stops"}, "files": files("video", clip)}, {"json": sent}):
        task = await made(service, "/v1/videos/extensions", **request)
        assert task.spec.continues is not None and not task.spec.continues.task_id
        assert any("not part of the new one" in note for note in task.notes)
        assert as_text(clip)[:99] not in json.dumps(task.request)
    video = (await service.client.get(f"/v1/videos/{edited.id}")).json()
    assert video["remixed_from_video_id"] == "a"


async def test_what_becomes_of_a_video_is_asked_for_in_the_native_words(service: HttpService):
    wish = {"format": "mp4", "codec": "h265", "crf": 20, "return_last_frame": True, "priority": 2}
    wish |= {"expires_in_s": 600, "save_result_path": "balls/red.mp4", "aspect_ratio": "1:1"}
    wish |= {"fragment_prompts": ["one", "two"], "model": "plain"}
    texts = {
        name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in wish.items()
    }
    for task_id, request in (
        ("json", {"json": {"prompt": "x", **wish, "task_id": "json"}}),
        ("form", {"data": {"prompt": "x", **texts, "task_id": "form"}}),
    ):
        task = await made(service, **request)
        assert task.spec.output == VideoOutput(VideoFormat.MP4, Codec.H265, 20, True)
        assert (task.id, task.priority, task.save_path) == (task_id, 2, "outputs/balls/red.mp4")
        assert task.expires_at is not None and task.spec.width == task.spec.height
        assert task.spec.fragment_prompts == ("one", "two")
    taken = await service.client.post("/v1/videos", json={"prompt": "x", "task_id": "json"})
    assert (taken.status_code, taken.headers["x-should-retry"]) == (409, "false")
    await service.publish(await service.claim("plain"))
    last = await service.client.get("/v1/videos/json/content?variant=last_frame")
    assert (last.content, last.headers["content-type"]) == (LAST_FRAME, "image/png")


async def refused(service: HttpService, path: str, **request: Any) -> tuple[httpx.Response, dict[str, str]]:
    response = await service.client.post(path, **request)
    return response, refusal_of(response)


async def test_a_refusal_names_the_file_as_it_was_sent(service: HttpService, clip: bytes):
    await service.submit(task_id="waits", model="plain")
    video, picture = as_text(clip), PICTURES[0]
    for fields, status, field, said in (
        ({"input_references": [picture] * 5}, 422, "input_references", "at most 4"),
        ({"input_references": [picture], "reference_images": [picture]}, 422, "reference_images", "only one"),
        ({"reference_images": [picture, "http://a/b.png"]}, 422, "reference_images[1]", "URLs"),
        ({"reference_images": [picture], "model": "plain"}, 422, "reference_images", "takes no"),
        ({"video_url": "http://a/b.mp4"}, 422, "video_url", "URLs"),
        ({"video_reference": video, "model": "plain"}, 422, "video_reference", "nothing to control"),
        ({"video_url": video, "input_reference": f"data:video/mp4;base64,{video}"}, 422, "video_url", "one"),
        ({"mask": video}, 422, "mask", "needs a video"),
        ({"mask": {"id": "waits"}}, 422, "mask", "must be a file"),
        ({"video": {"id": "waits"}}, 409, None, "no video yet"),
        ({"video": {"id": "none"}}, 404, None, "no task"),
        ({"video": {"id": "../x"}}, 422, "video", "the id of a video"),
        ({"video": {"file_id": "x"}}, 422, "video", "as video_url"),
        ({"last_frame_path": picture}, 422, "last_frame_path", "first frame"),
        ({"continue_from": {"id": "waits"}}, 422, "continue_from", "no finished video"),
        ({"continue_from": {"id": "waits", "fragments": 0}}, 422, "continue_from.fragments", "from 1"),
        ({"save_result_path": "/etc/x.mp4", "callback_url": ""}, 403, None, "path"),
        ({"callback_url": "http://example.com"}, 422, "callback_url", "no webhook secret"),
    ):
        response, refusal = await refused(service, "/v1/videos", json={**SMALL, **fields})
        assert (response.status_code, refusal.get("field")) == (status, field), response.text
        assert said in refusal["detail"], refusal
    for uploads, field in (
        (files("input_references", *TWO, *TWO, TWO[0]), "input_references"),
        (files("video", clip) + files("input_reference", clip), "video"),
        (files("video_file", clip), "video_file"),
    ):
        response, refusal = await refused(service, "/v1/videos", data=FORM, files=uploads)
        assert (response.status_code, refusal["field"]) == (422, field), response.text
    for path, body, field in (
        ("edits", {}, "video"),
        ("extensions", {}, "video"),
        ("extensions", {"video_url": "http://a/b.mp4"}, "video_url"),
        ("extensions", {"video_reference": {"id": "waits"}}, "video_reference"),
        ("extensions", {"video": {"id": "waits"}, "continue_from": "waits"}, "continue_from"),
    ):
        response, refusal = await refused(service, f"/v1/videos/{path}", json={"prompt": "x", **body})
        assert (response.status_code, refusal["field"]) == (422, field), response.text
    kept = [path for path in service.settings.inputs.rglob("*") if path.is_file()]
    assert not kept, "nothing is left of what was refused"


async def test_an_idempotent_repeat_with_another_video_is_refused(
    service: HttpService, clip: bytes, mask: bytes
):
    statuses = []
    for data in (clip, clip, mask):
        headers = {"Idempotency-Key": "k"}
        answer = await service.client.post(
            "/v1/videos", data={**FORM, "seed": "1"}, files=files("video", data), headers=headers
        )
        statuses.append(answer.status_code)
    assert statuses == [200, 200, 422]
