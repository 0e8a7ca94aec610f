"""Output options: the format, codec and quality of a video's file, and what the routes make of them."""

from typing import Any

import httpx

from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from serve_app.tasks.video_output import PLAIN, Codec, VideoFormat, VideoOutput
from tests.http.http_service import LAST_FRAME, VIDEO, HttpService
from tests.http.test_refusals import assert_refused


async def submit(service: HttpService, **fields: Any) -> httpx.Response:
    return await service.client.post("/v1/tasks/video", json={"prompt": "a ball", **fields})


async def made(service: HttpService, **fields: Any) -> Task:
    response = await submit(service, **fields)
    assert response.status_code == 200 and response.json()["message"] == "Task created successfully"
    return await service.store.get(EVERYONE, response.json()["task_id"])


async def test_the_form_of_the_file_is_chosen(service: HttpService):
    for fields, expected in (
        ({}, PLAIN),
        ({"format": "mp4", "codec": "", "crf": 0}, VideoOutput(crf=0)),
        ({"format": "mp4", "codec": "AV1", "crf": 63}, VideoOutput(VideoFormat.MP4, Codec.AV1, 63)),
        ({"format": "webm"}, VideoOutput(VideoFormat.WEBM, Codec.VP9)),
        (
            {"format": " PNG-ZIP ", "return_last_frame": True},
            VideoOutput(VideoFormat.PNG_ZIP, None, None, True),
        ),
    ):
        task = await made(service, **fields)
        assert task.spec.output == expected
        assert (await service.status(task.id))["format"] == expected.format


async def test_a_form_that_cannot_be_is_refused(service: HttpService):
    for fields, field, said in (
        ({"format": "avi"}, "format", "must be one of mp4, webm, gif, webp, png-zip"),
        ({"format": 4}, "format", "one of"),
        ({"codec": "mpeg2"}, "codec", "must be one of h264, h265, vp9, av1"),
        ({"codec": "h264", "format": "webm"}, "codec", "a webm holds vp9 or av1, not h264"),
        ({"codec": "h264", "format": "gif"}, "codec", "a gif has none"),
        ({"crf": 20, "format": "webp"}, "crf", "a webp has none"),
        ({"crf": 52}, "crf", "from 0 to 51 for h264"),
        ({"crf": 64, "codec": "vp9"}, "crf", "from 0 to 63"),
        ({"crf": -1}, "crf", "from 0 to 63"),
        ({"crf": "high"}, "crf", "whole number"),
        ({"format": "gif", "fps": 60}, "fps", "at most 50"),
        ({"format": "png-zip", "num_frames": 17, "num_fragments": 90}, "format", "at most 1000 frames"),
    ):
        refused = assert_refused(await submit(service, **fields), 422)
        assert refused["field"] == field and said in refused["detail"], fields


async def test_what_this_ffmpeg_lacks_is_refused_with_what_it_has(service: HttpService, poor_ffmpeg: None):
    for fields, field, said in (
        ({"codec": "av1"}, "codec", "for mp4 it has h264 and h265."),
        ({"format": "webm"}, "format", "cannot write webm; it writes mp4 and gif."),
    ):
        refused = assert_refused(await submit(service, **fields), 422)
        assert refused["field"] == field and said in refused["detail"]
    metadata = (await service.client.get("/v1/service/metadata")).json()
    assert metadata["formats"] == {"mp4": ["h264", "h265"], "gif": []}


async def test_a_file_has_the_name_and_the_type_of_its_format(service: HttpService):
    for form, suffix, media_type in (
        ("webm", ".webm", "video/webm"),
        ("gif", ".gif", "image/gif"),
        ("webp", ".webp", "image/webp"),
        ("png-zip", ".zip", "application/zip"),
    ):
        await service.finished(task_id=form, format=form)
        path = (await service.status(form))["video_path"]
        assert path == f"outputs/videos/{form}{suffix}"
        for url in (f"/v1/tasks/{form}/result", f"/v1/videos/{form}/content", f"/v1/files/download/{path}"):
            answer = await service.client.get(url, headers={"Range": "bytes=10-19"})
            assert answer.status_code == 206 and answer.content == VIDEO[10:20]
            assert answer.headers["content-type"] == media_type
            assert f'filename="{form}{suffix}"' in answer.headers["content-disposition"]


async def test_a_name_ends_as_its_format_does(service: HttpService):
    await service.finished(b"mp4", task_id="mp4", save_result_path="x.webm")
    assert (await service.status("mp4"))["video_path"] == "outputs/x.webm.mp4"
    assert (await service.client.get("/v1/files/download/x.webm")).content == b"mp4"
    await service.finished(b"webm", task_id="webm", save_result_path="x.webm", format="webm")
    assert (await service.status("webm"))["video_path"] == "outputs/x.webm"
    assert (await service.client.get("/v1/files/download/x.webm")).content == b"webm"
    await service.finished(b"zip", task_id="zip", save_result_path="x", format="png-zip")
    assert (await service.client.get("/v1/files/download/outputs/x.zip")).content == b"zip"
    await service.client.delete("/v1/videos/webm")
    assert (await service.client.get("/v1/files/download/x.webm")).content == b"mp4"


async def test_a_video_is_made_again_in_its_form_unless_another_is_asked_for(service: HttpService):
    first = await made(service, task_id="a", codec="h265", crf=30, return_last_frame=True)
    for change, expected in (
        ({}, first.spec.output),
        ({"codec": "av1"}, VideoOutput(VideoFormat.MP4, Codec.AV1, None, True)),
        ({"format": "gif", "return_last_frame": False}, VideoOutput(VideoFormat.GIF)),
    ):
        answer = await service.client.post("/v1/tasks/video/again", json={"task_id": "a", **change})
        again = await service.store.get(EVERYONE, answer.json()["task_id"])
        assert again.spec.output == expected
    remix = await service.client.post("/v1/videos/a/remix", json={"prompt": "a cube"})
    assert (await service.store.get(EVERYONE, remix.json()["id"])).spec.output == first.spec.output


async def test_the_last_frame_is_sent_as_a_picture_and_goes_with_the_video(service: HttpService):
    await service.submit(task_id="a", return_last_frame=True)
    waiting = await service.client.get("/v1/tasks/a/last_frame")
    assert assert_refused(waiting, 409)["code"] == "result_not_ready"
    assert (await service.status("a"))["last_frame_url"] is None
    task = await service.publish(await service.claim())
    url = (await service.status("a"))["last_frame_url"]
    assert url == "/v1/tasks/a/last_frame"
    answer = await service.client.get(url)
    assert answer.status_code == 200 and answer.content == LAST_FRAME
    assert answer.headers["content-type"] == "image/png"
    assert 'filename="a.last_frame.png"' in answer.headers["content-disposition"]
    folder = service.artifacts.attempt_path(task.uid, 1).parent
    await service.client.delete("/v1/videos/a")
    assert not folder.exists()
    await service.finished(task_id="b")
    assert (await service.status("b"))["last_frame_url"] is None
