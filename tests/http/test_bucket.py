"""A service that keeps its files in a bucket: videos are sent as from folders, by any node."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from serve_app.tasks.caller import EVERYONE
from testbed.s3_server import S3Server
from testbed.tcp_proxy import TcpProxy
from tests.http.http_service import LAST_FRAME, PREVIEW, VIDEO, HttpService, as_text, png, running, settings

pytestmark = pytest.mark.s3


@pytest.fixture
def where(s3_server: S3Server) -> dict[str, Any]:
    return s3_server.new_bucket()


@pytest_asyncio.fixture
async def service(folder: Path, where: dict[str, Any]) -> AsyncIterator[HttpService]:
    async with running(settings(folder, **where)) as service:
        yield service


async def test_a_video_is_sent_whole_in_ranges_and_by_its_headers_alone(service: HttpService):
    task_id = await service.finished()
    path = f"/v1/tasks/{task_id}/result"
    whole = await service.client.get(path)
    assert (whole.status_code, whole.content) == (200, VIDEO)
    assert whole.headers["content-type"] == "video/mp4" and whole.headers["accept-ranges"] == "bytes"
    part = await service.client.get(path, headers={"Range": "bytes=5000-6000"})
    assert (part.status_code, part.content) == (206, VIDEO[5000:6001])
    assert part.headers["content-range"] == f"bytes 5000-6000/{len(VIDEO)}"
    parts = await service.client.get(path, headers={"Range": "bytes=0-3,100-103"})
    assert parts.status_code == 206 and parts.headers["content-type"].startswith("multipart/byteranges")
    assert len(parts.content) == int(parts.headers["content-length"])
    assert VIDEO[0:4] in parts.content and VIDEO[100:104] in parts.content
    head = await service.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(VIDEO)) and head.headers["etag"] == whole.headers["etag"]
    known = await service.client.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    late = await service.client.get(path, headers={"Range": f"bytes={len(VIDEO)}-"})
    assert late.status_code == 416


async def test_pictures_previews_and_names_lead_to_the_bucket_and_go_with_the_task(service: HttpService):
    await service.submit(task_id="a", return_last_frame=True, save_result_path="x/a.mp4")
    task = await service.publish(await service.claim())
    client = service.client
    assert (await client.get("/v1/tasks/a/last_frame")).content == LAST_FRAME
    assert (await client.get("/v1/tasks/a/preview")).content == PREVIEW
    named = await client.get("/v1/files/download/outputs/x/a.mp4")
    assert named.content == VIDEO and 'filename="a.mp4"' in named.headers["content-disposition"]
    assert (await client.delete("/v1/videos/a")).status_code == 200
    assert list(service.artifacts.task_ids_with_files()) == []
    await service.finished(task_id="b")
    service.artifacts.delete_task_files((await service.store.get(EVERYONE, "b")).uid, None, None)
    gone = await client.get("/v1/tasks/b/result")
    assert (gone.status_code, gone.json()["code"]) == (404, "file_not_found")
    assert task.artifact is not None


async def test_a_picture_that_one_node_took_in_is_read_by_another(
    service: HttpService, folder: Path, where: dict[str, Any]
):
    task_id = (await service.submit(image_path=as_text(png())))["task_id"]
    key = (await service.store.get(EVERYONE, task_id)).spec.image_key
    assert key is not None
    other = settings(folder, **where).model_copy(update={"data_dir": folder / "other"})
    from serve_app.files.artifact_stores import open_artifacts

    assert open_artifacts(other).read_input(key).startswith(b"\x89PNG")
    assert not (folder / "data" / "inputs").exists()


async def test_a_client_is_sent_to_the_bucket_where_that_is_set(folder: Path, where: dict[str, Any]):
    where["s3"] |= {"redirect_downloads": True}
    async with running(settings(folder, **where)) as service:
        path = f"/v1/tasks/{await service.finished(task_id='a')}/result"
        answer = await service.client.get(path)
        assert answer.status_code == 307 and answer.headers["cache-control"] == "no-store"
        async with httpx.AsyncClient() as client:
            video = await client.get(answer.headers["location"], headers={"Range": "bytes=10-19"})
        assert video.content == VIDEO[10:20]
        head = await service.client.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(VIDEO)))
        known = await service.client.get(path, headers={"If-None-Match": head.headers["etag"]})
        assert known.status_code == 304


async def test_settings_that_contradict_a_bucket_are_refused_and_the_secret_is_in_no_text(
    folder: Path, where: dict[str, Any]
):
    with pytest.raises(ValueError, match="output_roots"):
        settings(folder, **where, output_roots=["/videos"])
    with pytest.raises(ValueError, match="secret_access_key"):
        settings(folder, artifacts_url="s3://tests", s3={"access_key_id": "a"})
    with pytest.raises(ValueError, match="artifacts_url"):
        settings(folder, artifacts_url="gs://tests")
    assert where["s3"]["secret_access_key"] not in repr(settings(folder, **where))


async def test_a_bucket_that_is_away_is_a_503_that_says_when_to_come_again(
    folder: Path, where: dict[str, Any], s3_server: S3Server
):
    with TcpProxy(("127.0.0.1", s3_server.port)) as proxy:
        where["s3"] |= {"endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        async with running(settings(folder, **where)) as service:
            task_id = await service.finished()
            proxy.cut()
            order = {"prompt": "a ball", "image_path": as_text(png())}
            refused = await service.client.post("/v1/tasks/video", json=order)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert "127.0.0.1" not in refused.text
            away = await service.client.get(f"/v1/tasks/{task_id}/result")
            assert away.status_code == 503 and int(away.headers["retry-after"]) >= 1
            assert (await service.status(task_id))["status"] == "succeed"
            proxy.mend()
            assert (await service.client.post("/v1/tasks/video", json=order)).status_code == 200
            assert (await service.client.get(f"/v1/tasks/{task_id}/result")).content == VIDEO
            assert len(await service.store.list(EVERYONE, limit=9)) == 2
