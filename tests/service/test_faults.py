"""A kill of each part of the service in mid-run, then another configuration under a run: every acknowledged
task ends once, as it should.
"""

import asyncio
import os
import signal
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import psutil
import pytest
from sqlalchemy import select

from serve_app.store.database import Database
from serve_app.store.leadership import Seat, Superseded
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import SERVICES
from testbed.cluster import Cluster, paced
from testbed.service import HTTP, Service, wait_for
from tests.collector import Collector
from tests.http.http_service import png

FAST = {"lease_s": 3.0, "heartbeat_s": 0.5}
STEPS = 10
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY, PROMPT_MARK = "qzkeyqz-0123456789abcdef", "qzpromptqz"
"""What clients send with everything, and no log may have."""
NAME_MARK, IMAGE_MARK = "qznameqz", b"qzimageqz" * 9
"""Of pictures."""
DEADLINE_S = 120


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def service(cluster: Cluster, releases: Path, collector: Collector) -> Iterator[Service]:
    model = paced(0.2, cpus_per_replica=0.1, options={"step_s": 0.2, "releases": str(releases)})
    key = {"name": "tester", "sha256": sha256(KEY.encode()).hexdigest(), "webhook_secrets": [SECRET]}
    webhooks = {"networks": ["127.0.0.0/8"]}
    tracing = {"endpoint": collector.endpoint, "period_s": 0.2}
    args: dict[str, Any] = {
        "models": [model],
        "keys": [key],
        "tasks": FAST,
        "webhooks": webhooks,
        "tracing": tracing,
    }
    with cluster.deploy(**args) as service:
        yield service.with_key(KEY)


def small(service: Service, prompt: str = "a cat", **fields: object) -> str:
    options = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": STEPS, "seed": 7}
    return service.submit(prompt=f"{prompt} {PROMPT_MARK}", **{**options, **fields})


def assert_published_once(service: Service, task_id: str) -> None:
    """Assert that the bytes visible first stay, under both addresses, and that no other attempt shows."""
    first = service.result(task_id)
    assert first[4:8] == b"ftyp"
    path = service.status(task_id)["video_path"]
    assert service.result(task_id) == first
    assert HTTP.get(f"{service.url}/v1/files/download/{path}", headers=service.headers).content == first
    assert (service.data_dir / path).read_bytes() == first


def test_a_killed_model_replica_costs_an_attempt_and_nothing_else(
    service: Service, collector: Collector
) -> None:
    traced = replace(service, headers={**service.headers, "traceparent": f"00-{TRACE}-{SPAN}-01"})
    task_id = small(traced, prompt="a secret cat")
    waiting = small(service)
    service.until(task_id, "running", step=2)
    service.kill("model-paced")
    ended = service.until(task_id, "succeed")
    assert ended["attempt"] == 2
    assert_published_once(service, task_id)
    assert service.until(waiting, "succeed")["attempt"] == 1
    assert_traced_over_both_attempts(collector, task_id)


def assert_traced_over_both_attempts(collector: Collector, task_id: str) -> None:
    """Assert that one trace, begun by the client, has spans of three processes and of the second attempt."""
    wanted = {
        ("submit", "api"),
        ("queue", "coordinator"),
        ("requeue", "coordinator"),
        ("task succeeded", "coordinator"),
        ("run", "model-paced"),
    }

    def is_whole() -> bool:
        return {(span.name, span.part) for span in collector.of(TRACE)} >= wanted

    wait_for(is_whole, DEADLINE_S, lambda: f"{collector.of(TRACE)}")
    spans = collector.of(TRACE)
    (submit,) = (span for span in spans if span.name == "submit")
    (run,) = (span for span in spans if span.name == "run")  # the first one died with its replica
    assert submit.parent == SPAN and run.facts["wan.attempt"] == 2 and not run.error
    assert {span.parent for span in spans if (span.name, span.part) in wanted} == {SPAN, submit.id}
    parts = [span.name for span in spans if span.parent == run.id]
    assert sorted(parts) == sorted(["prepare", *["step"] * STEPS, "decode", "finish"])
    assert {span.facts["wan.task.id"] for span in spans if (span.name, span.part) in wanted} == {task_id}
    assert b"secret" not in b"".join(collector.bodies)


def test_a_replica_that_loses_its_device_is_replaced_and_its_task_runs_again(service: Service) -> None:
    before = service.replica_pids("model-paced")
    task_id = small(service, prompt="[[lost:device]]")
    waiting = small(service)
    assert service.until(task_id, "succeed")["attempt"] == 2
    assert_published_once(service, task_id)
    assert service.until(waiting, "succeed")["attempt"] == 1
    assert set(service.replica_pids("model-paced").values()).isdisjoint(before.values())


def test_a_killed_coordinator_leaves_the_run_going(service: Service) -> None:
    task_id = small(service, infer_steps=30)
    waiting = small(service)
    service.until(task_id, "running", step=2)
    service.kill("coordinator")
    ended = service.until(task_id, "succeed")
    assert ended["attempt"] == 1, "the run was there all the time and must not be done again"
    assert_published_once(service, task_id)
    assert service.until(waiting, "succeed")["attempt"] == 1


def test_a_coordinator_that_is_frozen_is_replaced_and_the_run_goes_on(
    service: Service, releases: Path
) -> None:
    """Freeze it for good: it holds its connections, so nothing tells Serve that it is gone."""
    task_id = small(service, prompt="[[hold:frozen]]")
    waiting = small(service)
    service.until(task_id, "running")
    (frozen,) = service.replica_pids("coordinator").values()
    os.kill(frozen, signal.SIGSTOP)
    try:
        wait_for(
            lambda: bool(set(service.replica_pids("coordinator").values()) - {frozen}),
            DEADLINE_S,
            lambda: "it was not replaced",
        )
        (releases / "frozen").touch()
        ended = service.until(task_id, "succeed", deadline_s=DEADLINE_S)
        assert ended["attempt"] == 1, "the run was there all the time and must not be done again"
        assert service.until(waiting, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
    finally:
        with suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)
    assert_published_once(service, task_id)


class Hook(BaseHTTPRequestHandler):
    """A receiver of webhooks that answers none before it is released."""

    ids: ClassVar[list[str]] = []
    released: ClassVar[Event] = Event()

    def do_POST(self) -> None:
        self.ids.append(self.headers["webhook-id"])
        self.released.wait()
        with suppress(OSError):  # whoever asked may be dead
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_coordinator_killed_after_a_webhook_sends_it_again_under_its_id(service: Service) -> None:
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=receiver.serve_forever).start()
    try:
        url = f"http://127.0.0.1:{receiver.server_port}/"
        task_id = small(service, infer_steps=1, callback_url=url)
        wait_for(lambda: len(Hook.ids) == 1, DEADLINE_S, lambda: "no message")
        service.kill("coordinator")
        Hook.released.set()
        wait_for(lambda: len(Hook.ids) == 2, DEADLINE_S, lambda: "no message again")
        wait_for(
            lambda: service.status(task_id)["webhooks"][0]["state"] == "delivered",
            DEADLINE_S,
            lambda: str(service.status(task_id)),
        )
    finally:
        receiver.shutdown()
        receiver.server_close()
    assert len(set(Hook.ids)) == 1 and service.status(task_id)["attempt"] == 1


def test_a_killed_ingress_replica_takes_no_task_with_it(service: Service) -> None:
    task_id = small(service)
    service.until(task_id, "running", step=1)
    service.kill("api")
    assert service.until(task_id, "succeed")["attempt"] == 1
    assert_published_once(service, task_id)


def test_a_task_that_kills_each_replica_fails_after_three_attempts(service: Service) -> None:
    task_id = small(service, prompt="[[crash]]")
    ended = service.until(task_id, "failed", deadline_s=DEADLINE_S)
    assert (ended["attempt"], ended["error"]["code"]) == (3, "worker_lost")
    assert service.until(small(service), "succeed")["attempt"] == 1


@pytest.mark.parametrize(
    ("prompt", "code"),
    [("[[raise]]", "model_error"), ("[[oom]]", "out_of_memory"), ("[[prepare-error]]", "invalid_request")],
)
def test_an_error_of_the_model_fails_that_task_alone(service: Service, prompt: str, code: str) -> None:
    before = service.replica_pids("model-paced")
    failing, following = small(service, prompt=prompt), small(service)
    ended = service.until(failing, "failed")
    assert (ended["attempt"], ended["error"]["code"]) == (1, code)
    assert service.until(following, "succeed")["attempt"] == 1
    assert service.replica_pids("model-paced") == before, "the replica stays usable"


def test_a_cancelled_run_frees_its_replica_within_a_step(service: Service) -> None:
    running = small(service, infer_steps=200)
    following = small(service)
    service.until(running, "running", step=2)
    assert service.cancel(running)["stop_status"] == "success"
    assert service.status(running)["status"] == "cancelled"
    service.until(following, "succeed", deadline_s=35)  # the cancelled run had 39 s of steps to go
    ended = service.status(running)
    assert ended["status"] == "cancelled" and ended["step"] < 20
    result = HTTP.get(f"{service.url}/v1/tasks/{running}/result", headers=service.headers)
    assert result.status_code == 409
    assert service.cancel(running)["stop_status"] == "do_nothing"


def test_a_cancelled_queued_task_never_runs(service: Service) -> None:
    running, queued = small(service), small(service)
    service.until(running, "running")
    assert service.cancel(queued)["stop_status"] == "success"
    service.until(running, "succeed")
    assert service.until(queued, "cancelled")["attempt"] == 0


def test_a_stopped_replica_whose_run_was_given_away_publishes_nothing(service: Service) -> None:
    """Freeze the runner until its lease is over and its task is queued again, then thaw it."""
    task_id = small(service)
    service.until(task_id, "running", step=1)
    (pid,) = service.replica_pids("model-paced").values()
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(
            lambda: service.status(task_id)["status"] == "submitted",
            DEADLINE_S,
            lambda: "the lease did not end",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    ended = service.until(task_id, "succeed")
    assert ended["attempt"] == 2
    assert_published_once(service, task_id)


def test_a_killed_serve_controller_costs_nothing(service: Service) -> None:
    task_id = small(service, infer_steps=30)
    service.until(task_id, "running", step=2)
    (controller,) = controllers()
    controller.kill()
    assert service.until(small(service), "succeed")["attempt"] == 1, "tasks are taken and run meanwhile"
    assert service.until(task_id, "succeed")["attempt"] == 1
    assert_published_once(service, task_id)
    wait_for(
        lambda: bool(controllers()) and controller not in controllers(),
        DEADLINE_S,
        lambda: "no controller came back",
    )
    service.kill("model-paced")  # which the new controller must replace
    assert service.until(small(service), "succeed")["attempt"] in (1, 2)


def controllers() -> list[psutil.Process]:
    """Return the processes of this cluster's Serve controllers."""
    return [process for process in psutil.Process().children(recursive=True) if _is_controller(process)]


def _is_controller(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::ServeController")
    except psutil.Error:
        return False


def test_of_two_coordinators_one_leads_and_nothing_is_lost_or_done_twice(service: Service) -> None:
    """Let another coordinator take the lead in mid-run and fall silent; the service's own is replaced."""
    task_id = small(service, infer_steps=30)
    waiting = small(service)
    service.until(task_id, "running", step=2)
    rival = asyncio.run(take_lead(service))
    ended = service.until(task_id, "succeed")
    assert ended["attempt"] == 1, "the run was there all the time and must not be done again"
    assert_published_once(service, task_id)
    assert service.until(waiting, "succeed")["attempt"] == 1
    assert service.until(small(service), "succeed")["attempt"] == 1
    with pytest.raises(Superseded):
        asyncio.run(rival_claims(service, rival))


async def take_lead(service: Service) -> Seat:
    """Take the lead as another coordinator of the service; return its seat."""
    database = store_of(service)
    async with database.read() as connection:
        name = (await connection.execute(select(SERVICES.c.name))).scalar_one()
    ledger = await RunLedger.take_lead(database, service=name, lease_s=30, grace_s=30)
    await database.close()
    return ledger.seat


async def rival_claims(service: Service, seat: Seat) -> None:
    database = store_of(service)
    try:
        await RunLedger(database, seat, lease_s=30, shares={}).claim("paced", "another")
    finally:
        await database.close()


def store_of(service: Service) -> Database:
    return Database(f"sqlite+aiosqlite:///{service.data_dir / 'tasks.db'}")


@pytest.mark.timeout(400)
def test_a_replica_that_is_replaced_drains_and_its_successor_takes_the_next_task(
    cluster: Cluster, service: Service, releases: Path
) -> None:
    """The last test of this service, which has another configuration from here on."""
    running = small(service, prompt="[[hold:replaced]]")
    replaced = service.until(running, "running")["replica"]
    cluster.redeploy(service, limits={"max_queued": 7})
    wait_for(
        lambda: service.health_of(replaced, "paced") == "DRAINING",
        DEADLINE_S,
        lambda: f"{service.devices('paced')}",
    )
    following = service.until(small(service), "succeed", deadline_s=DEADLINE_S)
    assert following["replica"] != replaced
    assert service.status(running)["status"] == "running"
    (releases / "replaced").touch()
    ended = service.until(running, "succeed", deadline_s=DEADLINE_S)
    assert (ended["attempt"], ended["replica"]) == (1, replaced)


def test_no_log_has_a_prompt_a_key_or_a_picture_whatever_failed(cluster: Cluster, service: Service) -> None:
    """After all the faults before it, of which the logs of every process tell."""
    picture = png() + IMAGE_MARK
    as_base64 = b64encode(picture).decode()
    submit, form = f"{service.url}/v1/tasks/video", {"prompt": PROMPT_MARK}
    named = {"image_file": (f"{NAME_MARK}.png", picture)}
    headers, wrong = service.headers, {"X-API-Key": f"{KEY}-wrong"}
    for answer, status in (
        (HTTP.post(f"{submit}/form", data=form, files=named, headers=wrong), 401),
        (HTTP.post(f"{submit}/form", data=form, files={"image_file": IMAGE_MARK}, headers=headers), 400),
        (HTTP.post(submit, content=f'{{"prompt": "{PROMPT_MARK}', headers=headers), 422),
        (HTTP.post(f"{submit}?prompt={PROMPT_MARK}", json={"prompt": 5}, headers=headers), 422),
    ):
        assert answer.status_code == status, answer.text
    failing = small(service, "[[raise]]", image_path=as_base64)
    assert service.until(failing, "failed")["error"]["code"] == "model_error"
    said = b"\n".join(file.read_bytes() for file in cluster.logs.rglob("*") if file.is_file())
    assert failing.encode() in said and b"Traceback" in said
    marks = [text.encode() for text in (KEY, PROMPT_MARK, NAME_MARK, as_base64[60:90])]
    for mark in (*marks, IMAGE_MARK[:18]):
        assert mark not in said, said[max(said.find(mark) - 2000, 0) :][:3000]
