"""Webhooks from a submit to a receiver on loopback, by a clock that the test sets."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from serve_app.media.public_http import PublicHttp
from serve_app.store.delivery_ledger import DeliveryLedger
from serve_app.store.leadership import Superseded
from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.task import Task
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import DeliveryState
from serve_app.webhooks.courier import Courier
from serve_app.webhooks.schedule import DELAYS_S, MAX_JITTER
from serve_app.webhooks.sender import Sender
from tests.contract.tasks import made
from tests.http.http_service import running, settings, with_key
from tests.http.post import DEADLINE_S, SECRET, WEBHOOKS, Post
from tests.http.receiver import Receiver, receiving

OTHER_SECRET = "whsec_" + "QUJD" * 8


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest_asyncio.fixture
async def post(folder: Path) -> AsyncIterator[Post]:
    async with running(settings(folder, webhooks=WEBHOOKS)) as service:
        yield Post(service)


async def test_a_finished_task_is_told_once_with_its_status_and_a_signature_that_verifies(
    post: Post, receiver: Receiver
):
    task_id = await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    await post.deliver()
    (received,) = receiver.received
    assert received.message["type"] == "task.succeeded"
    status = await post.service.status(task_id)
    assert received.message["timestamp"] == status["finished_at"]
    (message,) = status.pop("webhooks")
    del status["prompt"], status["inputs"]  # a message is to be short
    status["result_url"] = "https://video.example/wan" + status["result_url"]
    assert received.message["data"] == status and received.headers["content-type"] == "application/json"
    assert (message["state"], message["attempts"], message["last_status"]) == ("delivered", 1, 204)
    assert message["id"] == received.id and message["next_attempt_at"] is None


async def test_standard_webhooks_own_verifier_takes_the_message(post: Post, receiver: Receiver):
    await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    (received,) = receiver.received
    assert Webhook(SECRET).verify(received.body, received.headers) == received.message


async def test_a_client_chooses_the_events(post: Post, receiver: Receiver):
    events = ["task.started", "task.cancelled"]
    task_id = (await post.service.submit(callback_url=receiver.url(), callback_events=events))["task_id"]
    await post.service.claim()
    await post.deliver()
    await post.service.client.delete(f"/v1/tasks/{task_id}")
    await post.deliver()
    assert [each.message["type"] for each in receiver.received] == ["task.started", "task.cancelled"]
    assert [each.message["data"]["status"] for each in receiver.received] == ["running", "cancelled"]
    form = {"prompt": "x", "callback_url": receiver.url(), "callback_events": "task.started,task.failed"}
    assert (await post.service.client.post("/v1/tasks/video/form", data=form)).status_code == 200


async def test_a_receiver_that_is_down_for_a_while_loses_nothing(post: Post):
    async with receiving() as gone:
        url = gone.url()
    ids = [await post.service.finished(callback_url=url) for _ in range(2)]
    for attempt in range(3):
        await post.deliver()
        for task_id in ids:
            (message,) = await post.webhooks(task_id)
            assert (message["state"], message["attempts"]) == ("pending", attempt + 1)
            assert message["last_error"] == "The receiver could not be reached."
        post.now += DELAYS_S[attempt] * 0.99
        await post.deliver()  # not due yet
        post.now += DELAYS_S[attempt] * (MAX_JITTER + 0.02)
    async with receiving(gone.port) as back:
        await post.deliver()
    assert sorted(each.message["data"]["task_id"] for each in back.received) == sorted(ids)
    assert [(await post.webhooks(task_id))[0]["attempts"] for task_id in ids] == [4, 4]


async def test_every_attempt_has_one_id_and_its_own_time(post: Post, receiver: Receiver):
    receiver.answers = ["500 Oops", "302 Found\r\nlocation: /elsewhere", "404 Not Found"]
    task_id = await post.service.finished(callback_url=receiver.url())
    errors = []
    for wait_s in (10, 400, 2500):
        await post.deliver()
        errors.append((await post.webhooks(task_id))[0]["last_error"])
        post.now += wait_s
    await post.deliver()
    assert len(receiver.received) == 4 and len(set(receiver.ids)) == 1
    assert len({each.headers["webhook-timestamp"] for each in receiver.received}) == 4
    assert "redirects are not followed" in errors[1] and "404" in errors[2]
    assert (await post.webhooks(task_id))[0]["state"] == "delivered"


async def test_after_the_last_attempt_a_message_is_failed_and_a_resend_sends_it_again(
    post: Post, receiver: Receiver
):
    receiver.answers = ["500 Oops"] * (len(DELAYS_S) + 1)
    task_id = await post.service.finished(callback_url=receiver.url())
    for delay_s in (*DELAYS_S, 2e5, 2e5):
        await post.deliver()
        post.now += 2 * delay_s
    (message,) = await post.webhooks(task_id)
    assert (message["state"], message["attempts"]) == ("failed", 10) and len(receiver.received) == 10
    assert post.attempts == [DeliveryState.PENDING] * 9 + [DeliveryState.FAILED]
    again = await post.service.client.post(f"/v1/tasks/{task_id}/webhooks/resend")
    assert again.status_code == 200 and again.json()["webhooks"][0]["state"] == "pending"
    await post.deliver()
    assert (await post.webhooks(task_id))[0]["state"] == "delivered" and len(set(receiver.ids)) == 1


async def test_a_receiver_that_asks_to_slow_down_is_left_alone_for_so_long(post: Post, receiver: Receiver):
    receiver.answers = ["429 Slow\r\nretry-after: 600"]
    first = await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    await post.service.finished(callback_url=receiver.url())
    other = await post.service.finished(callback_url=receiver.url(host="localhost"))
    post.now += 590
    await post.deliver()  # only to the other receiver
    assert [each.message["data"]["task_id"] for each in receiver.received] == [first, other]
    post.now += 20
    await post.deliver()
    assert len(receiver.received) == 4


async def test_a_receiver_that_is_gone_is_not_asked_again_until_a_resend(post: Post, receiver: Receiver):
    receiver.answers = ["410 Gone"]
    task_id = await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    later = await post.service.finished(callback_url=receiver.url())
    post.now += 1e6
    await post.deliver()
    assert len(receiver.received) == 1
    assert {(await post.webhooks(each))[0]["state"] for each in (task_id, later)} == {"disabled"}
    assert post.attempts == [DeliveryState.DISABLED]
    await post.service.client.post(f"/v1/tasks/{later}/webhooks/resend")
    await post.deliver()
    await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    assert len(receiver.received) == 3


async def test_a_slow_receiver_does_not_hold_up_the_others(post: Post, receiver: Receiver):
    release = asyncio.Event()
    async with receiving() as slow:
        slow.before_answer = release.wait
        for _ in range(5):
            await post.service.finished(callback_url=slow.url())
        await post.service.finished(callback_url=receiver.url())
        async with asyncio.timeout(DEADLINE_S):
            await post.courier.look()
            while not (receiver.received and len(slow.received) == 4):
                await asyncio.sleep(0.01)
            await post.courier.look()
            assert len(slow.received) == 4  # no more than four at a time
            release.set()
            await post.courier.idle()
            await post.courier.look()
            await post.courier.idle()
        assert len(slow.received) == 5


async def test_a_receiver_that_does_not_answer_is_given_up(post: Post, receiver: Receiver):
    post.courier = post.courier_of(post.service.ledger, timeout_s=0.2)
    release = asyncio.Event()
    receiver.before_answer = release.wait
    task_id = await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    release.set()
    assert "within 0.2 s" in (await post.webhooks(task_id))[0]["last_error"]


async def test_a_coordinator_lost_between_delivery_and_record_sends_again_under_the_same_id(
    post: Post, receiver: Receiver
):
    successors: list[RunLedger] = []

    async def take_over() -> None:
        receiver.before_answer = None
        successors.append(await RunLedger.take_lead(post.service.database, lease_s=30, grace_s=10))

    receiver.before_answer = take_over
    task_id = await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    assert (await post.webhooks(task_id))[0]["attempts"] == 0
    with pytest.raises(Superseded):
        await post.courier.look()
    post.courier = post.courier_of(successors[0])
    await post.deliver()
    assert len(receiver.received) == 2 and len(set(receiver.ids)) == 1
    assert (await post.webhooks(task_id))[0]["state"] == "delivered"


async def test_a_message_that_cannot_be_made_follows_the_schedule_too(post: Post, receiver: Receiver):
    def broken(task: Task, upload: Upload | None) -> dict[str, Any]:
        raise KeyError(task.id)

    sender = Sender(PublicHttp(), post.service.settings.webhook_secrets, broken, timeout_s=1.0)
    deliveries = DeliveryLedger(post.service.database, post.service.ledger.epoch)
    post.courier = Courier(deliveries, sender, on_attempt=post.attempts.append, clock=lambda: post.now)
    task_id = await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    await post.deliver()
    (message,) = await post.webhooks(task_id)
    assert (message["state"], message["attempts"]) == ("pending", 1)
    assert "could not be made" in message["last_error"]


async def test_a_host_that_has_become_private_is_not_asked(folder: Path, receiver: Receiver):
    async with running(settings(folder, webhooks={**WEBHOOKS, "networks": []})) as service:
        post = Post(service)
        task_id = await service.finished(callback_url=receiver.url(host="localhost"))
        await post.deliver()
        assert (await post.webhooks(task_id))[0]["last_error"] == "The URL's host has no public address."
    assert receiver.received == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"callback_url": "ftp://example.com/x"}, "callback_url"),
        ({"callback_url": "http://"}, "callback_url"),
        ({"callback_url": "https://me:secret@example.com/"}, "callback_url"),
        ({"callback_url": "http://10.0.0.1/"}, "callback_url"),
        ({"callback_url": "http://[::ffff:169.254.169.254]/"}, "callback_url"),
        ({"callback_url": "https://example.com/", "callback_events": ["task.born"]}, "callback_events"),
        ({"callback_url": "https://example.com/", "callback_events": "{"}, "callback_events"),
        ({"callback_url": "https://example.com/", "callback_events": [1]}, "callback_events"),
        ({"callback_events": ["task.failed"]}, "callback_events"),
    ],
)
async def test_a_callback_that_makes_no_sense_is_refused(post: Post, fields: dict[str, Any], field: str):
    refused = await post.service.client.post("/v1/tasks/video", json={"prompt": "x", **fields})
    assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text


async def test_without_a_secret_a_callback_is_refused_and_keys_have_their_own(
    folder: Path, receiver: Receiver
):
    def key(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}

    keys = [key("alice", webhook_secrets=[OTHER_SECRET, SECRET]), key("bob")]
    async with running(settings(folder, keys=keys, webhooks=WEBHOOKS)) as service:
        body = {"prompt": "x", "callback_url": receiver.url()}
        refused = await service.client.post("/v1/tasks/video", json=body, headers=with_key("bob"))
        assert refused.status_code == 422 and "no webhook secret" in refused.json()["detail"]
        post = Post(service)
        await service.finished(key="alice", callback_url=receiver.url())
        await post.deliver()
        for name, answer in (("alice", 200), ("bob", 404)):
            listed = await service.client.get("/v1/tasks", headers=with_key(name))
            assert SECRET not in listed.text and OTHER_SECRET not in listed.text
            for task in (await service.client.get("/v1/tasks", headers=with_key("alice"))).json()["tasks"]:
                path = f"/v1/tasks/{task['task_id']}/webhooks/resend"
                again = await service.client.post(path, headers=with_key(name))
                assert again.status_code == answer
        assert SECRET not in repr(service.settings) + service.settings.model_dump_json()
    (received,) = receiver.received
    signatures = received.headers["webhook-signature"].split()
    assert len(signatures) == 2 and all(each.startswith("v1,") for each in signatures)


async def test_a_task_without_messages_has_nothing_to_send_again(post: Post, receiver: Receiver):
    quiet = await post.service.finished()
    waiting = (await post.service.submit(callback_url=receiver.url()))["task_id"]
    for task_id in (quiet, waiting):
        refused = await post.service.client.post(f"/v1/tasks/{task_id}/webhooks/resend")
        assert (refused.status_code, refused.json()["code"]) == (409, "nothing_to_send")


async def test_a_message_stays_short(post: Post, receiver: Receiver):
    task_id = (await post.service.submit(callback_url=receiver.url()))["task_id"]
    task = await post.service.claim()
    key = post.service.artifacts.key(task.uid, task.attempt)
    await post.service.ledger.publish(task.uid, task.attempt, made(key, notes=("A long note. " * 3000,)))
    await post.deliver()
    (received,) = receiver.received
    assert len(received.body) < 20_000 and json.loads(received.body)["data"]["task_id"] == task_id


async def test_the_log_names_no_receiver(post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture):
    receiver.answers = ["500 Oops"]
    with caplog.at_level("INFO"):
        await post.service.finished(callback_url=receiver.url("/hook?token=of-the-receiver"))
        await post.deliver()
    service_lines = [record.getMessage() for record in caplog.records if record.name == "ray.serve"]
    assert any("500" in line for line in service_lines)
    assert "of-the-receiver" not in " ".join(service_lines)


async def test_the_receiver_of_the_documentation_takes_a_message_once_and_refuses_a_forged_one(
    post: Post, capsys: pytest.CaptureFixture[str]
):
    page = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
    shown: dict[str, Any] = {"__name__": "receiver"}
    exec(page.partition("```python\n")[2].partition("```")[0], shown)
    assert shown["SECRET"] == SECRET
    shown["Hook"].log_message = lambda *_: None
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), shown["Hook"])
    serving = Thread(target=receiver.serve_forever)
    serving.start()
    try:
        url = f"http://127.0.0.1:{receiver.server_port}/wan?project=7"
        task_id = await post.service.finished(callback_url=url)
        await post.deliver()
        await post.service.client.post(f"/v1/tasks/{task_id}/webhooks/resend")
        await post.deliver()
        assert (await post.webhooks(task_id))[0]["state"] == "delivered"
        async with httpx.AsyncClient() as forger:
            assert (await forger.post(url, content=b"{}")).status_code == 401
    finally:
        await asyncio.to_thread(receiver.shutdown)
        receiver.server_close()
    expected = f"task.succeeded {task_id} https://video.example/wan/v1/tasks/{task_id}/result\n"
    assert capsys.readouterr().out == expected


async def test_openais_client_takes_the_signature(post: Post, receiver: Receiver):
    await post.service.finished(callback_url=receiver.url())
    await post.deliver()
    (received,) = receiver.received
    from openai import InvalidWebhookSignatureError, OpenAI  # loads long, and no other test here needs it

    webhooks = OpenAI(api_key="none", webhook_secret=SECRET).webhooks
    webhooks.verify_signature(received.body, received.headers)
    with pytest.raises(InvalidWebhookSignatureError):
        webhooks.verify_signature(received.body + b" ", received.headers)
