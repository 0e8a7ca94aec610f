"""Clients that follow tasks: server-sent events and waits, over a real socket."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from serve_app.replica.run import Run
from serve_app.tasks.task import TaskError
from serve_app.tasks.transitions import Status
from testbed.paced_engine import PacedEngine
from tests.contract.tasks import Direct, at
from tests.http.http_service import HttpService, listening_at, running, settings, with_key

DEADLINE_S = 30


@dataclass(frozen=True)
class Event:
    """An event as a browser's ``EventSource`` would have it."""

    id: str
    data: dict[str, Any]


class Events:
    """The events of an open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.comments = 0

    async def next(self) -> Event | None:
        """Return the next event, None at the end of the stream."""
        async with asyncio.timeout(DEADLINE_S):
            fields: dict[str, str] = {}
            async for line in self._lines:
                name, _, value = line.partition(":")
                if line and not name:
                    self.comments += 1
                elif line:
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    return Event(fields["id"], json.loads(fields["data"]))
                else:
                    fields.clear()
        return None

    async def until(self, **wanted: Any) -> Event:
        """Return the first event with these fields."""
        while (event := await self.next()) is not None:
            if wanted.items() <= event.data.items():
                return event
        raise AssertionError(f"the stream ended without {wanted}")


@dataclass
class Listening:
    """The service on a port of 127.0.0.1."""

    service: HttpService
    client: httpx.AsyncClient

    @asynccontextmanager
    async def events(
        self, path: str, *, last: str | None = None, key: str | None = None
    ) -> AsyncIterator[Events]:
        headers = {**with_key(key), **({} if last is None else {"Last-Event-ID": last})}
        async with self.client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            yield Events(response)


@asynccontextmanager
async def listening(service: HttpService) -> AsyncIterator[Listening]:
    async with (
        listening_at(service) as url,
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client,
    ):
        yield Listening(service, client)


@pytest_asyncio.fixture
async def live(folder: Path) -> AsyncIterator[Listening]:
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("alice", "bob")]
    async with running(settings(folder, keys=keys)) as service, listening(service) as live:
        yield live


async def test_a_task_is_followed_from_the_queue_to_its_end(live: Listening):
    service = live.service
    await service.submit(task_id="a", key="alice")
    async with live.events("/v1/tasks/a/events", key="alice") as events:
        first = await events.next()
        assert first is not None
        status = (await service.client.get("/v1/tasks/a/status", headers=with_key("alice"))).json()
        assert first.data == {**status, "eta_seconds": first.data["eta_seconds"]}
        task = await service.claim()
        await events.until(status="running", step=0, attempt=1)
        await service.ledger.report(task.uid, 1, at(2, 0.5))
        await events.until(step=2, progress=0.5)
        await service.publish(task)
        last = await events.until(status="succeed")
        assert await events.next() is None, "the stream ends with the task"
    again = {**with_key("alice"), "Last-Event-ID": last.id}
    assert (await live.client.get("/v1/tasks/a/events", headers=again)).status_code == 204


async def test_what_a_run_is_at_comes_to_who_follows_it(live: Listening, tmp_path: Path):
    service = live.service
    await service.submit(task_id="a", key="alice", prompt="[[hold:go]]", infer_steps=2, num_frames=5)
    async with live.events("/v1/tasks/a/events", key="alice") as events:
        task = await service.claim()
        await events.until(status="running", phase="preparing")
        engine, control = PacedEngine(step_s=0, releases=tmp_path), Direct(service.ledger)
        run = Run(task, engine, service.artifacts, control, heartbeat_s=1.0, step_timeout_s=DEADLINE_S)
        with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as files:
            generating = asyncio.create_task(run.generate(thread, files))
            await events.until(phase="step 1 of 2", step=0)
            (tmp_path / "go").touch()
            await run.finish(await generating, files)
        last = await events.until(status="succeed")
    assert last.data["phase"] is None and last.data["step"] == 2


async def test_a_client_that_lost_the_end_of_a_task_gets_it(live: Listening):
    service = live.service
    await service.submit(task_id="a", key="alice")
    async with live.events("/v1/tasks/a/events", key="alice") as events:
        seen = await events.next()
    assert seen is not None
    task = await service.claim()
    await service.ledger.fail(task.uid, 1, TaskError("model_error", "It failed"))
    async with live.events("/v1/tasks/a/events", key="alice", last=seen.id) as events:
        last = await events.next()
        assert last is not None and last.data["status"] == "failed"
        assert last.data["error"]["code"] == "model_error"
        assert await events.next() is None


async def test_all_tasks_of_a_key_and_no_others_are_followed_on_one_stream(live: Listening):
    service = live.service
    await service.submit(task_id="old", key="alice")
    await service.submit(task_id="other", key="bob")
    async with live.events("/v1/events", key="alice") as events:
        first = await events.next()
        assert first is not None and first.data["task_id"] == "old"
        await service.submit(task_id="new", key="alice")
        assert (await events.until(task_id="new")).data["status"] == "submitted"
        await service.client.delete("/v1/tasks/other", headers=with_key("bob"))
        await service.client.delete("/v1/tasks/old", headers=with_key("alice"))
        seen = await events.next()
        assert seen is not None and (seen.data["task_id"], seen.data["status"]) == ("old", "cancelled")
    await service.client.delete("/v1/tasks/new", headers=with_key("alice"))
    async with live.events("/v1/events", key="alice", last=seen.id) as events:
        assert (await events.until(task_id="new")).data["status"] == "cancelled", "it ended meanwhile"


async def test_a_task_that_comes_and_ends_between_two_looks_is_told_of(live: Listening):
    service = live.service
    async with live.events("/v1/events", key="alice") as events:
        await service.submit(task_id="known", key="alice")
        await events.until(task_id="known")
        await service.submit(task_id="short", key="alice")
        await service.client.delete("/v1/tasks/short", headers=with_key("alice"))
        assert await events.until(task_id="short", status="cancelled")


async def test_many_streams_of_one_task_all_get_its_end(live: Listening):
    service = live.service
    await service.submit(task_id="a", key="alice")

    async def follow() -> str:
        async with live.events("/v1/tasks/a/events", key="alice") as events:
            assert await events.next() is not None
            began.release()
            return str((await events.until(status="cancelled")).data["task_id"])

    began = asyncio.Semaphore(0)
    followers = [asyncio.create_task(follow()) for _ in range(40)]
    for _ in followers:
        await began.acquire()
    await service.client.delete("/v1/tasks/a", headers=with_key("alice"))
    assert await asyncio.gather(*followers) == ["a"] * 40


@pytest.mark.slow
async def test_the_place_of_a_waiting_task_is_told_when_it_moves(live: Listening):
    service = live.service
    await service.submit(task_id="first", key="alice")
    await service.submit(task_id="second", key="alice")
    async with live.events("/v1/tasks/second/events", key="alice") as events:
        seen = await events.until(queue_position=2)
        await service.client.delete("/v1/tasks/first", headers=with_key("alice"))
        assert (await events.until(queue_position=1)).id == seen.id


@pytest.mark.parametrize("path", ["/v1/tasks/nothing/events", "/v1/tasks/a/events"])
async def test_a_task_that_is_not_yours_cannot_be_followed(live: Listening, path: str):
    await live.service.submit(task_id="a", key="alice")
    response = await live.client.get(path, headers=with_key("bob"))
    assert response.status_code == 404 and response.json()["code"] == "task_not_found"


async def test_a_status_waits_for_the_end_of_its_task(live: Listening):
    service = live.service
    await service.submit(task_id="a", key="alice")
    waiting = asyncio.create_task(
        live.client.get("/v1/tasks/a/status", params={"wait": 20}, headers=with_key("alice"))
    )
    task = await service.claim()
    await service.publish(task)
    assert (await waiting).json()["status"] == "succeed"


async def test_a_wait_ends_with_the_task_as_it_stands(live: Listening):
    await live.service.submit(task_id="a", key="alice")
    response = await live.client.get("/v1/tasks/a/status", params={"wait": 0.3}, headers=with_key("alice"))
    assert response.json()["status"] == "submitted"


async def test_a_submit_that_waits_answers_with_the_finished_task(live: Listening):
    body, params = {"prompt": "a red ball", "task_id": "a"}, {"wait": 20}
    waiting = asyncio.create_task(
        live.client.post("/v1/tasks/video", json=body, params=params, headers=with_key("alice"))
    )
    async with asyncio.timeout(DEADLINE_S):
        while not (await live.service.store.counts())[Status.QUEUED]:
            await asyncio.sleep(0.01)
    await live.service.publish(await live.service.claim())
    response = await waiting
    assert (response.status_code, response.json()["status"]) == (200, "succeed")
    assert response.json()["result_url"] == "/v1/tasks/a/result"


async def test_a_submit_whose_wait_ends_first_is_a_202_with_the_task(live: Listening):
    for path, kind in (("/v1/tasks/video", "json"), ("/v1/tasks/video/form", "data")):
        sent: dict[str, Any] = {kind: {"prompt": "x"}}
        response = await live.client.post(path, params={"wait": 0.2}, headers=with_key("alice"), **sent)
        assert (response.status_code, response.json()["status"]) == (202, "submitted")


@pytest.mark.parametrize("wait", ["-1", "601", "soon", "nan"])
async def test_a_wait_that_makes_no_sense_is_refused(live: Listening, wait: str):
    for method, path in (("GET", "/v1/tasks/a/status"), ("POST", "/v1/tasks/video")):
        response = await live.client.request(
            method, path, params={"wait": wait}, json={"prompt": "x"}, headers=with_key("alice")
        )
        assert (response.status_code, response.json()["field"]) == (422, "wait")


async def test_open_streams_are_counted_until_their_clients_go(live: Listening):
    counts = live.service.streams
    await live.service.submit(task_id="a", key="alice")
    async with (
        live.events("/v1/tasks/a/events", key="alice") as one,
        live.events("/v1/events", key="alice") as all,
    ):
        await one.next()
        await all.next()
        assert counts == [1, 2]
    async with asyncio.timeout(DEADLINE_S):
        while counts[-1]:
            await asyncio.sleep(0.01)
    assert counts == [1, 2, 1, 0]
