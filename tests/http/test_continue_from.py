"""A video that goes on from an earlier one: from its end, or from the end of the fragments that are kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.media.video_writer import VideoWriter
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
        ({"continue_from": {"task_id": "none"}}, "continue_from", "no task of that id"),
        ({"continue_from": {"task_id": "waits"}}, "continue_from", "no finished video"),
        ({"continue_from": {"task_id": "gif"}}, "continue_from", "is a gif"),
        ({"continue_from": {"task_id": "../x"}}, "continue_from.task_id", "must be"),
        ({"continue_from": {"fragments": 1}}, "continue_from.task_id", ""),
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


async def test_a_video_that_is_gone_is_refused_and_none_is_made_again_alone(
    service: HttpService, clip: bytes
):
    await service.finished(clip, **SOURCE)
    task = await go_on(service, "a")
    again = await service.client.post("/v1/tasks/video/again", json={"task_id": task.id})
    assert assert_refused(again, 422)["field"] == "task_id"
    assert_refused(await service.client.post(f"/v1/videos/{task.id}/remix", json={"prompt": "x"}), 422)
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
