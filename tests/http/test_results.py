"""Finished videos: streamed whole or in ranges, and found through the store alone."""

import asyncio
from pathlib import Path

import pytest

from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import TaskError
from tests.http.http_service import VIDEO, HttpService, running, settings

SIZE = len(VIDEO)


async def test_a_finished_video_comes_whole_by_id_and_by_name(service: HttpService):
    task_id = await service.finished()
    status = await service.status(task_id)
    assert status["status"] == "succeed" and status["video_path"] == f"outputs/videos/{task_id}.mp4"
    for path in (status["result_url"], f"/v1/files/download/{status['video_path']}"):
        for slash in ("", "/"):
            response = await service.client.get(path + slash)
            assert response.status_code == 200 and response.content == VIDEO
            assert response.headers["content-type"] == "video/mp4"
            assert response.headers["accept-ranges"] == "bytes"


async def test_head_tells_the_size_without_the_video(service: HttpService):
    task_id = await service.finished()
    for path in (f"/v1/tasks/{task_id}/result", f"/v1/files/download/outputs/videos/{task_id}.mp4"):
        response = await service.client.head(path)
        assert response.status_code == 200 and response.content == b""
        assert response.headers["content-length"] == str(SIZE)
        partial = await service.client.head(path, headers={"Range": "bytes=0-9"})
        assert partial.status_code == 206 and partial.headers["content-length"] == "10"


@pytest.mark.parametrize(
    ("header", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=100-", 206, 100, SIZE - 1),
        ("bytes=-100", 206, SIZE - 100, SIZE - 1),
        (f"bytes=-{SIZE * 2}", 206, 0, SIZE - 1),
        (f"bytes=5-{SIZE * 2}", 206, 5, SIZE - 1),
        (f"bytes={SIZE - 1}-", 206, SIZE - 1, SIZE - 1),
        ("BYTES = 0-0", 206, 0, 0),
        ("bytes=0-9,99999-", 206, 0, 9),
        ("bytes=5-1", 200, 0, SIZE - 1),
        ("bytes=-", 200, 0, SIZE - 1),
        ("bytes=", 200, 0, SIZE - 1),
        ("bytes=a-b", 200, 0, SIZE - 1),
        ("bytes=0x1-2", 200, 0, SIZE - 1),
        ("bytes=--5", 200, 0, SIZE - 1),
        ("bytes=1-2-3", 200, 0, SIZE - 1),
        ("bytes=" + "9" * 500 + "-", 200, 0, SIZE - 1),
        ("bytes=" + ",".join(["0-1"] * 1000), 200, 0, SIZE - 1),
        ("items=0-9", 200, 0, SIZE - 1),
        ("0-9", 200, 0, SIZE - 1),
        ("", 200, 0, SIZE - 1),
        ("bytes=\u0661-\u0662", 200, 0, SIZE - 1),
    ],
)
async def test_a_range_is_answered_or_passed_over(service: HttpService, header, status, first, last):
    task_id = await service.finished()
    response = await service.client.get(
        f"/v1/tasks/{task_id}/result", headers={"Range": header.encode("utf-8")}
    )
    assert response.status_code == status
    assert response.content == VIDEO[first : last + 1]
    if status == 206:
        assert response.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=99999-100000", "bytes=-0"])
async def test_a_range_past_the_end_is_a_416_that_tells_the_size(service: HttpService, header):
    response = await service.client.get(
        f"/v1/tasks/{await service.finished()}/result", headers={"Range": header}
    )
    assert response.status_code == 416 and response.json()["code"] == "range_not_satisfiable"
    assert response.headers["content-range"] == f"bytes */{SIZE}"


async def test_several_ranges_come_in_one_answer(service: HttpService):
    response = await service.client.get(
        f"/v1/tasks/{await service.finished()}/result", headers={"Range": "bytes=0-3,100-103"}
    )
    assert response.status_code == 206
    assert response.headers["content-type"].startswith("multipart/byteranges")
    assert VIDEO[0:4] in response.content and VIDEO[100:104] in response.content


async def test_an_interrupted_download_goes_on_only_with_the_same_file(service: HttpService):
    path = f"/v1/tasks/{await service.finished()}/result"
    etag = (await service.client.get(path)).headers["etag"]
    same = await service.client.get(path, headers={"Range": "bytes=9-", "If-Range": etag})
    other = await service.client.get(path, headers={"Range": "bytes=9-", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)


async def test_downloads_at_once_do_not_mix(service: HttpService):
    ids = [await service.finished(bytes([number]) * 50_000) for number in range(4)]
    answers = await asyncio.gather(
        *(service.client.get(f"/v1/tasks/{task_id}/result") for task_id in ids for _ in range(3))
    )
    assert [set(answer.content) for answer in answers] == [{number} for number in range(4) for _ in range(3)]


async def test_a_name_in_any_script_is_downloaded_under_that_name(service: HttpService):
    await service.finished(save_result_path="猫/日没 の猫.mp4")
    response = await service.client.get("/v1/files/download/outputs/猫/日没 の猫.mp4")
    assert response.status_code == 200 and response.content == VIDEO
    disposition = response.headers["content-disposition"]
    assert disposition.startswith("attachment;")
    assert "filename*=utf-8''%E6%97%A5%E6%B2%A1%20%E3%81%AE%E7%8C%AB.mp4" in disposition


@pytest.mark.parametrize("name", ["outputs/cats/one.mp4", "cats/one.mp4", "./cats/one.mp4", "cats//one.mp4"])
async def test_a_saved_name_is_found_however_it_is_written(service: HttpService, name):
    await service.finished(save_result_path="./cats/one.mp4")
    assert (await service.client.get(f"/v1/files/download/{name}")).content == VIDEO


async def test_an_absolute_name_is_found_with_one_slash_or_two(folder: Path):
    (folder / "more").mkdir()
    async with running(settings(folder, output_roots=[folder / "more"])) as service:
        await service.finished(save_result_path=str(folder / "more" / "one.mp4"))
        for name in (f"{folder}/more/one.mp4", f"{folder}/more/one.mp4".lstrip("/")):
            assert (await service.client.get(f"/v1/files/download/{name}")).content == VIDEO
        task_id = await service.finished(b"two")
        absolute = f"{folder}/data/outputs/videos/{task_id}.mp4"
        assert (await service.client.get(f"/v1/files/download/{absolute}")).content == b"two"


async def test_of_two_videos_under_one_name_the_newer_is_downloaded(service: HttpService):
    first = await service.finished(b"first", save_result_path="same.mp4")
    await service.finished(b"second", save_result_path="same.mp4")
    assert (await service.client.get("/v1/files/download/same.mp4")).content == b"second"
    assert (await service.client.get(f"/v1/tasks/{first}/result")).content == b"first"


@pytest.mark.parametrize(
    "path",
    [
        "../data/tasks.db",
        "outputs/../../data/tasks.db",
        "%2e%2e/tasks.db",
        "..%2f..%2ftasks.db",
        "/etc/passwd",
        "etc/passwd",
        "%2fetc%2fpasswd",
        "outputs/.attempts/t-x/1.mp4",
        ".attempts",
        "outputs",
        "outputs/",
        "",
        ".",
        "%00",
        "%ff",
        "a%0ab",
        "a%5cb",
        "x" * 5000,
        "unknown.mp4",
    ],
)
async def test_nothing_but_finished_videos_can_be_downloaded(service: HttpService, path):
    (service.settings.outputs / "unknown.mp4").write_bytes(b"not a task's")
    await service.finished()
    request = service.client.build_request("GET", "http://service/")
    request.url = request.url.copy_with(raw_path=f"/v1/files/download/{path}".encode())
    response = await service.client.send(request)
    assert response.status_code in (403, 404), response.text
    assert set(response.json()) == {"detail", "code"} and str(service.settings.data_dir) not in response.text


async def test_before_the_end_there_is_a_409_that_says_where_the_task_stands(service: HttpService):
    task_id = (await service.submit())["task_id"]
    said = [(await service.client.get(f"/v1/tasks/{task_id}/result")).json()["detail"]]
    task = await service.claim()
    said.append((await service.client.get(f"/v1/tasks/{task_id}/result")).json()["detail"])
    await service.ledger.fail(task.uid, task.attempt, TaskError("model_error", "The model failed"))
    response = await service.client.get(f"/v1/tasks/{task_id}/result")
    said.append(response.json()["detail"])
    assert response.status_code == 409
    for word, sentence in zip(("submitted", "running", "failed"), said, strict=True):
        assert word in sentence


async def test_a_cancelled_task_has_no_result(service: HttpService):
    task_id = (await service.submit())["task_id"]
    await service.client.delete(f"/v1/tasks/{task_id}")
    response = await service.client.get(f"/v1/tasks/{task_id}/result")
    assert response.status_code == 409 and "cancelled" in response.json()["detail"]


async def test_a_video_that_is_gone_from_the_disk_is_a_404(service: HttpService):
    task_id = await service.finished()
    task = await service.store.get(EVERYONE, task_id)
    service.artifacts.path_of(task.artifact or "").unlink()
    response = await service.client.get(f"/v1/tasks/{task_id}/result")
    assert response.status_code == 404
    assert response.json() == {"detail": "The video is no longer kept.", "code": "file_not_found"}
