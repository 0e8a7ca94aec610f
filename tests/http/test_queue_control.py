"""The queue in a client's hands: what goes next, pauses, deadlines, and an end of all that waits."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from serve_app.tasks.command import Command
from serve_app.tasks.transitions import Status
from tests.contract.tasks import at, made
from tests.http.http_service import HttpService, running, settings, with_key


def key(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}


KEYS = [key("alice", max_priority=2), key("bob"), key("boss", admin=True)]


async def change(service: HttpService, path: str, of: str | None = None) -> dict[str, Any]:
    response = await service.client.post(path, headers=with_key(of))
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def test_a_waiting_task_is_made_the_next(service: HttpService):
    ids = [(await service.submit())["task_id"] for _ in range(3)]
    moved = await change(service, f"/v1/tasks/{ids[2]}/next")
    assert (moved["task_id"], moved["queue_position"]) == (ids[2], 1)
    assert [(await service.claim()).id for _ in range(3)] == [ids[2], ids[0], ids[1]]
    refused = await service.client.post(f"/v1/tasks/{ids[2]}/next")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_waiting")


async def test_the_next_task_of_a_key_has_no_priority_that_the_key_may_not_ask_for(folder: Path):
    async with running(settings(folder, keys=KEYS)) as service:
        await service.submit(key="bob", task_id="his", priority=9)
        for name, priority in (("top", 2), ("hers", 0)):
            await service.submit(key="alice", task_id=name, priority=priority)
        moved = await change(service, "/v1/tasks/hers/next", "alice")
        assert moved["priority"] == 2
        assert [(await service.claim()).id for _ in range(3)] == ["his", "hers", "top"]


async def test_a_paused_queue_takes_tasks_and_begins_none(service: HttpService):
    await service.add_replica()
    task_id = (await service.submit())["task_id"]
    paused = await change(service, "/v1/tasks/queue/pause")
    assert (paused["paused"], paused["paused_models"], paused["pending_count"]) == (True, [], 1)
    await service.submit()
    assert await service.ledger.claim("demo", "demo-1") is None
    status = await service.status(task_id)
    assert (status["queue_position"], status["eta_seconds"]) == (None, None)
    assert status["message"] == "Waiting: the queue is paused"
    nudges = len(service.nudges)
    resumed = await change(service, "/v1/tasks/queue/resume")
    assert not resumed["paused"] and len(service.nudges) == nudges + 1
    assert (await service.claim()).id == task_id


async def test_a_replica_is_free_for_others_while_paused_tasks_wait(folder: Path):
    async with running(settings(folder, keys=KEYS)) as service:
        await service.add_replica()
        await service.submit(key="alice")
        await change(service, "/v1/tasks/queue/pause", "alice")
        body = {"task_id": "x", "prompt": "x", "save_video_path": "x.mp4"}
        answers = {
            name: (
                await service.client.post("/v1/local/video/generate", json=body, headers=with_key(name))
            ).json()
            for name in ("alice", "bob")
        }
        assert answers["alice"] == {"error": "Service busy"} and "task_status" in answers["bob"]


async def test_a_key_pauses_its_own_queue_and_an_admin_a_model(folder: Path):
    async with running(settings(folder, keys=KEYS)) as service:
        for name in ("alice", "bob"):
            await service.submit(key=name, task_id=name)
        assert (await change(service, "/v1/tasks/queue/pause", "alice"))["paused"]
        own = await service.client.get("/v1/tasks/queue/status", headers=with_key("bob"))
        assert own.json()["paused"] is False
        assert (await service.claim()).id == "bob"
        await change(service, "/v1/tasks/queue/resume", "alice")
        for path in ("/v1/tasks/queue/pause", "/v1/tasks/queue/resume"):
            refused = await service.client.post(f"{path}?model=demo", headers=with_key("alice"))
            assert (refused.status_code, refused.json()["code"]) == (403, "admin_only")
            unknown = await service.client.post(f"{path}?model=none", headers=with_key("boss"))
            assert (unknown.status_code, unknown.json()["field"]) == (422, "model")
        paused = await change(service, "/v1/tasks/queue/pause?model=demo", "boss")
        assert (paused["paused"], paused["paused_models"]) == (False, ["demo"])
        assert await service.ledger.claim("demo", "demo-1") is None
        await change(service, "/v1/tasks/queue/resume?model=demo", "boss")
        assert (await service.claim()).id == "alice"


async def test_all_waiting_tasks_can_be_cancelled_and_what_runs_goes_on(service: HttpService):
    ids = [(await service.submit())["task_id"] for _ in range(3)]
    await service.claim()
    answer = (await service.client.delete("/v1/tasks/all/waiting")).json()
    assert answer == {"stop_status": "success", "reason": "Tasks stopped successfully: 2."}
    assert [(await service.status(id_))["status"] for id_ in ids] == ["running", "cancelled", "cancelled"]
    assert [task.status for task in service.cancelled] == [Status.CANCELLED] * 2
    again = (await service.client.delete("/v1/tasks/all/waiting")).json()
    assert again == {"stop_status": "do_nothing", "reason": "No queued task found."}


async def test_a_task_that_waits_too_long_says_so(service: HttpService):
    task_id = (await service.submit(expires_in_s=0.001))["task_id"]
    kept = (await service.submit(expires_in_s=3600))["task_id"]
    assert (await service.status(task_id))["expires_at"] is not None
    await service.ledger.expire_waiting()
    status = await service.status(task_id)
    assert (status["status"], status["error"]["code"], status["expires_at"]) == ("failed", "expired", None)
    assert (await service.status(kept))["status"] == "submitted"


@pytest.mark.parametrize("seconds", [0, -1, 1e9, "soon"])
async def test_a_deadline_that_makes_no_sense_is_refused(service: HttpService, seconds: object):
    refused = await service.client.post("/v1/tasks/video", json={"prompt": "x", "expires_in_s": seconds})
    assert (refused.status_code, refused.json()["field"]) == (422, "expires_in_s")


async def test_a_running_task_is_finished_early_and_no_other(service: HttpService):
    task_id = (await service.submit())["task_id"]
    waiting = await service.client.post(f"/v1/tasks/{task_id}/finish_early")
    assert (waiting.status_code, waiting.json()["code"]) == (409, "not_running")
    task = await service.claim()
    assert (await change(service, f"/v1/tasks/{task_id}/finish_early"))["status"] == "running"
    assert Command.FINISH in await service.ledger.report(task.uid, 1, at(1, 0.1))
    key = service.artifacts.key(task.uid, 1)
    await service.ledger.publish(task.uid, 1, made(key, notes=("Early.",), frames=5))
    done = await service.status(task_id)
    assert (done["status"], done["num_frames"], done["notes"]) == ("succeed", 5, ["Early."])
