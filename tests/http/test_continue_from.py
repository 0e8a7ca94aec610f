"""A video that goes on from an earlier one: from its end, or from the end of the fragments that are kept."""

import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import numpy as np
import pytest
import pytest_asyncio

from models.engine import Frames
from serve_app.media.file_settings import settings_comment
from serve_app.media.video_writer import VideoWriter
from serve_app.replica.earlier_video import EarlierVideo
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import Task, TaskSpec
from tests.http.http_service import HttpService, as_text, png, running, settings
from tests.http.test_refusals import assert_refused

SOURCE: dict[str, Any] = {"task_id": "a", "width": 96, "height": 64, "num_frames": 9, "fps": 12, "seed": 5}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    with VideoWriter(path, width=96, height=64, fps=12) as writer:
        writer.write(np.zeros((25, 64, 96, 3), np.uint8))
    return path.read_bytes()


@pytest.fixture(scope="module")
def webm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video whose frames grow brighter, of 30 a second, and whose header does not tell its length."""
    path = tmp_path_factory.mktemp("clip") / "a.webm"
    source = "color=black:s=96x64:r=30,format=gray,geq=lum=4*N,format=yuv420p"
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-frames:v", "60"),
        *("-c:v", "libvpx-vp9", "-lossless", "1", "-live", "1", "-f", "webm", "pipe:1"),
    ]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path.read_bytes()


@pytest_asyncio.fixture
async def plain(folder: Path, webm: bytes) -> AsyncIterator[HttpService]:
    """The service with a model that goes on from nine frames, and a video in a folder of inputs."""
    (folder / "in").mkdir()
    (folder / "in" / "a.webm").write_bytes(webm)
    models = [{"name": "plain", "variant": "wan2.1-t2v-1.3b", "weights": "."}]
    async with running(settings(folder, models=models, input_roots=[folder / "in"])) as service:
        yield service


async def go_on(service: HttpService, source: Any, **fields: Any) -> Task:
    answer = await service.client.post("/v1/tasks/video", json={"continue_from": source, **fields})
    assert answer.status_code == 200, answer.text
    return await service.store.get(EVERYONE, answer.json()["task_id"])


def going_on(task: Task) -> tuple[Continuation, TaskSpec]:
    assert task.spec.continues is not None
    return task.spec.continues, task.spec


async def test_a_video_goes_on_from_the_end_of_another(service: HttpService, clip: bytes):
    await service.finished(clip, **SOURCE, num_fragments=3)
    task = await go_on(service, {"task_id": "a"}, prompt="it stops")
    found, spec = going_on(task)
    assert (spec.prompt, spec.width, spec.height, spec.fps) == ("it stops", 96, 64, 12)
    assert (found.end, found.tail, found.kept_ends) == (25, 1, ())
    assert spec.num_fragments == 1 and spec.total_frames == 8, "its frames are none of the earlier ones"
    await service.client.delete("/v1/videos/a")
    assert service.artifacts.read_input(found.key) == clip, "the earlier video may go"


async def test_first_fragments_are_kept_and_the_rest_made_anew(service: HttpService, clip: bytes):
    await service.finished(clip, **SOURCE, num_fragments=3)
    task = await go_on(service, {"task_id": "a", "fragments": 2})
    found, spec = going_on(task)
    assert (found.end, found.kept_ends, found.kept_frames) == (17, (9, 17), 17)
    assert (spec.prompt, spec.num_fragments, spec.total_frames) == ("a red ball", 1, 25)
    await service.publish(await service.claim(), clip)
    more, spec = going_on(await go_on(service, {"task_id": task.id, "fragments": 3}, num_fragments=5))
    assert (more.kept_ends, spec.num_fragments, spec.total_frames) == ((9, 17, 25), 2, 41)
    prompts = ["one", "two"]
    told = await go_on(service, {"task_id": "a", "fragments": 1}, fragment_prompts=prompts)
    assert told.spec.fragment_prompts == tuple(prompts) and told.spec.total_frames == 25


async def test_a_form_takes_the_source_as_json_or_as_an_id(service: HttpService, clip: bytes):
    await service.finished(clip, **SOURCE)
    for text in ('{"task_id": "a"}', "a"):
        answer = await service.client.post("/v1/tasks/video/form", data={"continue_from": text})
        assert answer.status_code == 200, answer.text
        task = await service.store.get(EVERYONE, answer.json()["task_id"])
        assert going_on(task)[0].end == 9


async def test_what_cannot_be_gone_on_from_is_refused(service: HttpService, clip: bytes):
    await service.finished(clip, **SOURCE, num_fragments=2)
    await service.finished(b"gif", task_id="gif", format="gif")
    await service.submit(task_id="waits")
    two = {"task_id": "a", "fragments": 2}
    for fields, field, said in (
        ({"continue_from": {"task_id": "none"}}, "continue_from", "no task 'none'"),
        ({"continue_from": {"task_id": "waits"}}, "continue_from", "no finished video"),
        ({"continue_from": {"task_id": "gif"}}, "continue_from", "is a gif"),
        ({"continue_from": {"task_id": "../x"}}, "continue_from.task_id", "must be"),
        ({"continue_from": {"fragments": 1}}, "continue_from", "one of them"),
        ({"continue_from": 7}, "continue_from", "must be written as"),
        ({"continue_from": {"task_id": "a", "fragments": 0}}, "continue_from.fragments", "from 1 to 100"),
        ({"continue_from": {"task_id": "a", "fragments": 3}}, "continue_from.fragments", "has 2"),
        ({"continue_from": two}, "num_fragments", "above the 2"),
        ({"continue_from": two, "num_fragments": 2}, "num_fragments", "above the 2"),
        ({"continue_from": "a", "size": "64x64"}, "size", "has 96"),
        ({"continue_from": "a", "fps": 16}, "fps", "has 12"),
        ({"continue_from": "a", "num_frames": 1}, "num_frames", "at least 5"),
        ({"continue_from": "a", "image_path": as_text(png())}, "image_path", "takes no picture"),
        ({"continue_from": "a", "last_frame_path": as_text(png())}, "last_frame_path", "takes no picture"),
        (
            {"continue_from": {**two, "fragments": 1}, "fragment_prompts": ["x", "y"], "num_fragments": 2},
            "fragment_prompts",
            "2 prompts for 1",
        ),
    ):
        answer = await service.client.post("/v1/tasks/video", json={"prompt": "x", **fields})
        refused = assert_refused(answer, 422)
        assert refused["field"] == field and said in refused["detail"], (fields, refused)


def tail_of(service: HttpService, task: Task) -> Frames:
    earlier = EarlierVideo.of(task.spec, service.artifacts)
    assert earlier is not None
    return earlier.tail()


async def test_a_clients_own_video_is_gone_on_from_in_every_form(plain: HttpService, webm: bytes):
    sent = {"prompt": "it stops", "num_frames": 13}
    uploaded = await plain.client.post(
        "/v1/tasks/video/form",
        data={key: str(value) for key, value in sent.items()},
        files={"continue_from_file": ("a.webm", webm, "video/webm")},
    )
    assert uploaded.status_code == 200, uploaded.text
    tasks = [await plain.store.get(EVERYONE, uploaded.json()["task_id"])]
    for video in ("a.webm", as_text(webm), f"data:video/webm;base64,{as_text(webm)}"):
        tasks.append(await go_on(plain, {"video": video}, **sent))
    for task in tasks:
        found, spec = going_on(task)
        assert (spec.width, spec.height, spec.fps) == (96, 64, 30), "as the video is"
        assert (found.tail, found.kept_ends, spec.total_frames) == (9, (), 4)
        grays = tail_of(plain, task).astype(int).mean((1, 2, 3))
        assert np.abs(grays - np.arange(51, 60) * 4 * 255 / 256).max() < 12, "its last frames, and no other"
        assert as_text(webm)[:99] not in json.dumps(task.request)
    await plain.client.delete(f"/v1/videos/{tasks[0].id}")
    assert set(plain.artifacts.task_ids_with_files()) == {task.uid for task in tasks[1:]}


async def test_of_a_clients_own_video_size_rate_and_model_may_be_chosen(plain: HttpService, webm: bytes):
    task = await go_on(plain, {"video": "a.webm"}, prompt="x", fps=16, width=64, num_fragments=2)
    spec = task.spec
    assert (spec.width, spec.height, spec.fps, spec.num_fragments) == (64, 48, 16, 2)
    assert spec.total_frames == 2 * (spec.num_frames - 9)
    grays = tail_of(plain, task).astype(int).mean((1, 2, 3))
    assert abs(np.median(np.diff(grays)) - 4 * 30 / 16) < 1.5, "brought to that rate"
    assert grays[-1] > 220, "up to its end"


async def test_what_is_no_video_to_go_on_from_is_refused_and_leaves_nothing(
    plain: HttpService, webm: bytes, tmp_path: Path
):
    short = tmp_path / "short.mp4"
    with VideoWriter(short, width=96, height=64, fps=12) as writer:
        writer.write(np.zeros((5, 64, 96, 3), np.uint8))
    for fields, status, field, said in (
        ({"continue_from": {"video": as_text(b"no video")}}, 400, None, "no MP4"),
        ({"continue_from": {"video": as_text(webm[:300])}}, 400, None, "damaged"),
        ({"continue_from": {"video": as_text(short.read_bytes())}}, 422, "continue_from.video", "has 5"),
        ({"continue_from": {"video": "../x.mp4"}}, 403, None, "outside"),
        ({"continue_from": {"video": "a.webm", "task_id": "a"}}, 422, "continue_from", "one of them"),
        ({"continue_from": {"video": "a.webm", "fragments": 1}}, 422, "continue_from", "no fragments"),
        ({"continue_from": {"video": "a.webm"}, "prompt": ""}, 422, "prompt", "required"),
        ({"continue_from": {"video": "a.webm"}, "num_frames": 1}, 422, "num_frames", "at least 5"),
        (
            {"continue_from": {"video": "a.webm"}, "image_path": as_text(png())},
            422,
            "image_path",
            "no picture",
        ),
    ):
        answer = await plain.client.post("/v1/tasks/video", json={"prompt": "x", **fields})
        refused = assert_refused(answer, status)
        assert refused.get("field") == field and said in refused["detail"], (fields, refused)
    limits = {"max_video_s": 1}
    async with running(settings(plain.settings.data_dir.parent, limits=limits)) as strict:
        answer = await strict.client.post(
            "/v1/tasks/video", json={"prompt": "x", "continue_from": {"video": as_text(webm)}}
        )
        assert "longer than 1 s" in assert_refused(answer, 413)["detail"]
    assert not list(plain.settings.inputs.rglob("*.*"))


async def again(service: HttpService, **fields: Any) -> httpx.Response:
    return await service.client.post("/v1/tasks/video/again", json=fields)


async def submitted(service: HttpService, answer: httpx.Response) -> Task:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return await service.store.get(EVERYONE, body.get("task_id") or body["id"])


async def test_a_video_that_goes_on_from_a_task_is_made_again_while_that_is_there(
    service: HttpService, clip: bytes
):
    await service.finished(clip, **SOURCE, num_fragments=3)
    await service.finished(clip, **SOURCE | {"task_id": "b", "fps": 16})
    kept = await go_on(service, {"task_id": "a", "fragments": 1}, prompt="x", num_fragments=4)
    alone = await go_on(service, "a", seed=3)
    for task in (kept, alone):
        remix = await service.client.post(f"/v1/videos/{task.id}/remix", json={"prompt": "y"})
        for answer, prompt in ((await again(service, task_id=task.id), task.spec.prompt), (remix, "y")):
            copy = await submitted(service, answer)
            mine, copys = going_on(task)[0], going_on(copy)[0]
            assert copys == replace(mine, key=copys.key) and copys.key != mine.key
            assert copy.spec == replace(task.spec, prompt=prompt, continues=copys)
            await service.client.delete(f"/v1/videos/{copy.id}")
    other = await submitted(service, await again(service, task_id=alone.id, continue_from={"task_id": "b"}))
    assert going_on(other)[0].task_id == "b" and (other.spec.fps, other.spec.seed) == (16, 3)
    await service.client.delete("/v1/videos/a")
    assert "no task 'a'" in assert_refused(await again(service, task_id=kept.id), 422)["detail"]
    remix = await service.client.post(f"/v1/videos/{kept.id}/remix", json={"prompt": "y"})
    assert "no task 'a'" in assert_refused(remix, 422)["detail"]


async def test_a_video_that_goes_on_from_a_clients_own_is_made_again(plain: HttpService, webm: bytes):
    task = await go_on(plain, {"video": "a.webm"}, prompt="x", num_fragments=2)
    tail = tail_of(plain, task)
    remix = await plain.client.post(f"/v1/videos/{task.id}/remix", json={"prompt": "x"})
    for answer in (await again(plain, task_id=task.id), remix):
        copy = await submitted(plain, answer)
        assert copy.spec == replace(task.spec, continues=copy.spec.continues) and copy.uid in str(copy.spec)
        assert np.array_equal(tail_of(plain, copy), tail), "to the bit"
    uploaded = await plain.client.post(
        "/v1/tasks/video/again", data={"task_id": task.id}, files={"continue_from_file": webm}
    )
    assert going_on(await submitted(plain, uploaded))[0].task_id == ""
    plain.artifacts.delete_task_files(task.uid, None, None)
    assert "no longer kept" in assert_refused(await again(plain, task_id=task.id), 404)["detail"]


async def test_a_file_of_a_video_that_goes_on_asks_for_the_earlier_one(
    plain: HttpService, webm: bytes, tmp_path: Path
):
    task = await go_on(plain, {"video": "a.webm"}, prompt="x", num_fragments=2, seed=3)
    comment = settings_comment(task.spec, model="plain", variant="v", goes_on=True)
    with VideoWriter(tmp_path / "b.mp4", width=96, height=64, fps=12, comment=comment) as writer:
        writer.write(np.zeros((1, 64, 96, 3), np.uint8))
    file = (tmp_path / "b.mp4").read_bytes()
    refused = await plain.client.post("/v1/tasks/video/again", files={"file": file})
    assert assert_refused(refused, 422)["field"] == "continue_from_file"
    taken = await plain.client.post("/v1/tasks/video/again", files={"file": file, "continue_from_file": webm})
    copy = await submitted(plain, taken)
    assert copy.spec == replace(task.spec, continues=copy.spec.continues)


async def test_a_video_that_is_gone_is_refused(service: HttpService, clip: bytes):
    await service.finished(clip, **SOURCE)
    task = await go_on(service, "a")
    earlier = await service.store.get(EVERYONE, "a")
    service.artifacts.delete_task_files(earlier.uid, None, None)
    answer = await service.client.post("/v1/tasks/video", json={"continue_from": "a"})
    assert "no longer kept" in assert_refused(answer, 422)["detail"]
    assert set(service.artifacts.task_ids_with_files()) == {task.uid}, "nothing is left of the refused one"


async def test_nobody_goes_on_from_the_video_of_another_key(folder: Path, clip: bytes):
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("alice", "bob")]
    async with running(settings(folder, keys=keys)) as service:
        await service.finished(clip, key="alice", **SOURCE)
        for key, status in (("bob", 422), ("alice", 200)):
            answer = await service.client.post(
                "/v1/tasks/video",
                content=json.dumps({"continue_from": "a"}),
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            )
            assert answer.status_code == status, answer.text
