"""Videos sent to their clients' own storage: a real S3 server, and receivers on loopback that refuse."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.webhook import DeliveryState
from serve_app.webhooks.schedule import DELAYS_S
from testbed.s3_server import S3Server
from testbed.tcp_proxy import TcpProxy
from tests.http.http_service import VIDEO, running, settings
from tests.http.post import WEBHOOKS, Post
from tests.http.receiver import Receiver, receiving

UPLOADS = {"networks": ["127.0.0.0/8"]}
SIGNED = "/bucket/a%20b.mp4?X-Amz-Signature=only-for-us&X-Amz-Expires=60"


@pytest_asyncio.fixture
async def post(folder: Path) -> AsyncIterator[Post]:
    async with running(settings(folder, webhooks=WEBHOOKS, uploads=UPLOADS)) as service:
        yield Post(service)


@pytest_asyncio.fixture
async def storage() -> AsyncIterator[Receiver]:
    async with receiving() as storage:
        yield storage


async def upload(post: Post, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await post.service.status(task_id))["upload"]
    return found


@pytest.mark.s3
async def test_a_video_is_put_to_a_presigned_url_of_s3(post: Post, s3_server: S3Server):
    s3_server.new_bucket()
    url = s3_server.upload_url("films/ball 1.mp4")
    task_id = (await post.service.submit(upload_url=url))["task_id"]
    assert (await upload(post, task_id))["status"] == "waiting"
    task = await post.service.claim()
    await post.deliver()
    await post.service.publish(task)
    assert (await upload(post, task_id))["status"] == "pending"
    await post.deliver()
    assert s3_server.read("films/ball 1.mp4") == (VIDEO, "video/mp4")
    found = await upload(post, task_id)
    assert (found["status"], found["attempts"], found["last_status"]) == ("delivered", 1, 200)
    assert found["url"] == url.partition("?")[0] and found["error"] is found["next_attempt_at"] is None


@pytest.mark.s3
async def test_a_signature_that_has_expired_is_a_note_and_no_failure_of_the_task(
    post: Post, s3_server: S3Server
):
    s3_server.new_bucket()
    forged = s3_server.upload_url("late.mp4").replace("X-Amz-Signature=", "X-Amz-Signature=0")
    task_id = await post.service.finished(upload_url=forged)
    for delay_s in (*DELAYS_S, 2e5, 2e5):
        await post.deliver()
        post.now += 2 * delay_s
    status = await post.service.status(task_id)
    assert (status["status"], status["error"], status["upload"]["status"]) == ("succeed", None, "failed")
    assert (
        status["upload"]["error"] == "The storage answered with status 403; a presigned URL may have expired."
    )
    assert status["upload"]["attempts"] == 10 and status["upload"]["next_attempt_at"] is None
    assert post.attempts == [DeliveryState.PENDING] * 9 + [DeliveryState.FAILED]


@pytest.mark.s3
async def test_a_video_in_a_bucket_is_sent_from_there_and_a_cut_connection_is_tried_again(
    folder: Path, s3_server: S3Server, storage: Receiver
):
    where = s3_server.new_bucket()
    with TcpProxy(("127.0.0.1", s3_server.port)) as proxy:
        where["s3"]["endpoint_url"] = f"http://127.0.0.1:{proxy.port}"
        async with running(settings(folder, uploads=UPLOADS, **where)) as service:
            post = Post(service)
            task_id = await service.finished(upload_url=storage.url(SIGNED))
            proxy.cut()
            await post.deliver()
            assert (await upload(post, task_id))["error"] == "The service could not read the video."
            proxy.mend()
            post.now += 10
            await post.deliver()
    (received,) = storage.received
    assert received.body == VIDEO and received.headers["content-length"] == str(len(VIDEO))
    assert "transfer-encoding" not in received.headers and "x-ms-blob-type" not in received.headers


async def test_azure_is_told_the_kind_of_its_blob(post: Post, storage: Receiver):
    await post.service.finished(upload_url=storage.url("/films/x.mp4?sv=2026-01-01&sr=b&sig=a%2Fb%3D"))
    await post.deliver()
    (received,) = storage.received
    assert received.headers["x-ms-blob-type"] == "BlockBlob"
    assert received.target == "/films/x.mp4?sv=2026-01-01&sr=b&sig=a%2Fb%3D"


async def test_a_storage_that_is_down_gets_the_video_after_a_restart_of_the_coordinator(post: Post):
    async with receiving() as gone:
        url = gone.url(SIGNED)
    task_id = await post.service.finished(upload_url=url)
    await post.deliver()
    found = await upload(post, task_id)
    assert (found["status"], found["error"]) == ("pending", "The storage could not be reached.")
    post.uploads = post.uploads_of(await RunLedger.take_lead(post.service.database, lease_s=30, grace_s=10))
    post.now += 10
    async with receiving(gone.port) as back:
        await post.uploads.look()
        await post.uploads.idle()
    assert back.received[0].body == VIDEO and (await upload(post, task_id))["attempts"] == 2


@pytest.mark.parametrize(
    ("answer", "status", "error", "asked"),
    [
        ("302 Found\r\nlocation: http://127.0.0.1/", "pending", "status 302; redirects are not followed", 2),
        ("410 Gone", "failed", "status 410", 1),
        ("503 Slow Down\r\nretry-after: 600", "pending", "status 503", 1),
    ],
)
async def test_what_is_no_success_is_told_and_tried_again_where_that_may_help(
    post: Post, storage: Receiver, answer: str, status: str, error: str, asked: int
):
    storage.answers = [answer]
    task_id = await post.service.finished(upload_url=storage.url(SIGNED))
    await post.deliver()
    found = await upload(post, task_id)
    assert found["status"] == status and error in found["error"]
    post.now += 7
    await post.deliver()
    assert len(storage.received) == asked


async def test_a_storage_that_takes_no_more_of_a_video_is_given_up(post: Post, storage: Receiver):
    post.uploads = post.uploads_of(post.service.ledger, timeout_s=0.2)
    release = asyncio.Event()
    storage.before_answer = release.wait
    task_id = await post.service.finished(upload_url=storage.url(SIGNED))
    await post.deliver()
    release.set()
    assert "within 0.2 s" in (await upload(post, task_id))["error"]


async def test_the_message_of_the_end_follows_the_upload_and_tells_of_it(post: Post, storage: Receiver):
    async with receiving() as hook:
        task_id = await post.service.finished(upload_url=storage.url(SIGNED), callback_url=hook.url())
        await post.courier.look()
        await post.courier.idle()
        assert hook.received == []
        await post.deliver()
        (told,) = hook.received
        assert told.message["data"]["upload"] == await upload(post, task_id)
        assert told.message["data"]["upload"]["status"] == "delivered"


async def test_the_message_of_the_end_waits_for_three_attempts_and_no_longer(post: Post, storage: Receiver):
    storage.answers = ["500 Oops"] * 9
    async with receiving() as hook:
        await post.service.finished(upload_url=storage.url(SIGNED), callback_url=hook.url())
        for told, delay_s in ((0, DELAYS_S[0]), (0, DELAYS_S[1]), (1, 0.0)):
            await post.deliver()
            assert len(hook.received) == told
            post.now += 1.3 * delay_s
        upload = hook.received[0].message["data"]["upload"]
    assert (upload["status"], upload["attempts"], upload["last_status"]) == ("pending", 3, 500)


async def test_a_task_without_a_video_uploads_nothing_and_tells_at_once(post: Post, storage: Receiver):
    async with receiving() as hook:
        fields = {"upload_url": storage.url(SIGNED), "callback_url": hook.url()}
        task_id = (await post.service.submit(**fields))["task_id"]
        await post.service.client.delete(f"/v1/tasks/{task_id}")
        await post.deliver()
        assert hook.received[0].message["data"]["upload"]["status"] == "skipped"
    assert storage.received == []
    assert (await post.service.status(await post.service.finished()))["upload"] is None


async def test_no_answer_and_no_log_line_holds_the_secret(
    post: Post, storage: Receiver, caplog: pytest.LogCaptureFixture
):
    storage.answers = ["500 Oops"] * 9
    client, url = post.service.client, storage.url(SIGNED)
    texts = []
    with caplog.at_level("INFO"):
        async with receiving() as hook:
            fields: dict[str, Any] = {"upload_url": url, "callback_url": hook.url()}
            task_id = await post.service.finished(**fields)
            form = await client.post("/v1/tasks/video/form", data={"prompt": "x", "upload_url": url})
            openai = await client.post("/v1/videos", json={"prompt": "x", "upload_url": url})
            older = await client.post("/lightx2v/v1/tasks/video", json={"prompt": "x", "upload_url": url})
            again = await client.post("/v1/tasks/video/again", json={"task_id": task_id})
            long = {"prompt": "x", "upload_url": url + "x" * 9000}
            texts += [form, openai, older, again, await client.post("/v1/tasks/video", json=long)]
            ids = [answer.json().get("task_id") or answer.json().get("id") for answer in texts[:4]]
            for path in (
                *("/v1/tasks", "/v1/videos", "/lightx2v/v1/tasks", f"/v1/tasks/{task_id}/events"),
                *(f"/v1/tasks/{each}/status" for each in (task_id, *ids)),
                *("/v1/local/video/generate/get_all_tasks", "/v1/tasks/queue/status", "/v1/service/status"),
            ):
                texts.append(await client.get(path))
            path = "/v1/local/video/generate/task_status"
            texts.append(await client.post(path, json={"task_id": task_id}))
            for _ in range(3):
                await post.deliver()
                post.now += 500
        assert len(hook.received) == 1
    assert [answer.status_code for answer in texts[:5]] == [200, 200, 200, 200, 422]
    assert (await upload(post, ids[0]))["status"] == "waiting" and await upload(post, ids[3]) is None
    shown = [answer.text for answer in texts] + [each.body.decode() for each in hook.received]
    lines = [record.getMessage() for record in caplog.records]
    assert any("upload" in line and "500" in line for line in lines)
    assert "only-for-us" not in " ".join([*shown, *lines])
    assert "only-for-us" not in repr(await post.service.store.list(EVERYONE, limit=9))
    # what is left of it is read as what was asked for
    assert any("/bucket/a%20b.mp4" in text for text in shown)


@pytest.mark.parametrize(
    "url", ["ftp://example.com/x", "http://", "https://me:secret@example.com/", "http://10.0.0.1/?sig=1"]
)
async def test_a_url_that_makes_no_sense_is_refused(post: Post, url: str):
    refused = await post.service.client.post("/v1/tasks/video", json={"prompt": "x", "upload_url": url})
    assert (refused.status_code, refused.json()["field"]) == (422, "upload_url"), refused.text
    assert "secret" not in refused.text and "sig" not in refused.text


@pytest.mark.slow
async def test_a_host_that_has_become_private_gets_nothing(folder: Path, storage: Receiver):
    async with running(settings(folder, uploads={})) as service:
        post = Post(service)
        task_id = await service.finished(upload_url=storage.url(SIGNED, host="localhost"))
        await post.deliver()
        assert (await upload(post, task_id))["error"] == "The URL's host has no public address."
    assert storage.received == []


async def test_a_service_that_sends_no_videos_refuses_and_ends_the_uploads_that_it_had(
    folder: Path, storage: Receiver
):
    async with running(settings(folder, uploads=UPLOADS)) as service:
        task_id = await service.finished(upload_url=storage.url(SIGNED))
    async with running(settings(folder)) as service:
        refused = await service.client.post(
            "/v1/tasks/video", json={"prompt": "x", "upload_url": storage.url(SIGNED)}
        )
        assert (refused.status_code, refused.json()["field"]) == (422, "upload_url")
        post = Post(service)
        await post.deliver()
        assert (await upload(post, task_id))["status"] == "failed"
    assert storage.received == []
