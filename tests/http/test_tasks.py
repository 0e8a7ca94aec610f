"""Reading tasks and cancelling them."""

from datetime import datetime

import pytest

from models.phase import Phase
from serve_app.tasks.task import TaskError
from serve_app.tasks.transitions import Status
from tests.contract.tasks import at
from tests.http.http_service import HttpService


async def test_a_status_follows_the_task_to_its_end(service: HttpService):
    task_id = (await service.submit(infer_steps=4, seed=7, priority=2))["task_id"]
    queued = await service.status(task_id)
    assert (queued["status"], queued["progress"], queued["queue_position"]) == ("submitted", 0.0, 1)
    assert queued["seed"] == 7 and queued["priority"] == 2 and queued["total_steps"] == 4
    task = await service.claim()
    await service.ledger.report(task.uid, task.attempt, at(2, 0.45))
    running = await service.status(task_id)
    assert (running["status"], running["progress"], running["step"]) == ("running", 0.45, 2)
    assert running["attempt"] == 1 and running["replica"] == "demo-1" and running["queue_position"] is None
    await service.publish(task)
    done = await service.status(task_id)
    assert (done["status"], done["progress"], done["eta_seconds"]) == ("succeed", 1.0, None)
    assert done["timings"] == {"denoise": 1.5} and done["error"] is None
    times = [datetime.fromisoformat(done[name]) for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times) and done["created_at"].endswith("Z")


@pytest.mark.parametrize(
    ("told", "step", "phase"),
    [
        (Phase.PREPARING, 0, "preparing"),
        (Phase.ENCODING_TEXT, 0, "encoding text"),
        (Phase.DENOISING, 0, "step 1 of 4"),
        (Phase.DENOISING, 2, "step 3 of 4"),
        (Phase.DENOISING, 4, "step 4 of 4"),
        (Phase.DECODING, 4, "decoding"),
        (Phase.WRITING, 4, "writing"),
    ],
)
async def test_a_running_task_says_what_it_is_at(service: HttpService, told: Phase, step: int, phase: str):
    task_id = (await service.submit(infer_steps=4))["task_id"]
    assert (await service.status(task_id))["phase"] is None
    task = await service.claim()
    assert (await service.status(task_id))["phase"] == "preparing"
    await service.ledger.report(task.uid, task.attempt, at(step, 0.1, told))
    running = await service.status(task_id)
    assert (running["phase"], running["message"]) == (phase, f"Processing, {phase}")
    await service.publish(task)
    assert (await service.status(task_id))["phase"] is None


async def test_progress_is_one_only_at_the_end(service: HttpService):
    task_id = (await service.submit())["task_id"]
    task = await service.claim()
    await service.ledger.report(task.uid, task.attempt, at(12, 0.99999))
    assert (await service.status(task_id))["progress"] < 1


async def test_a_failed_task_says_why(service: HttpService):
    task_id = (await service.submit())["task_id"]
    task = await service.claim()
    await service.ledger.fail(
        task.uid, task.attempt, TaskError("out_of_memory", "The device has too little memory")
    )
    status = await service.status(task_id)
    assert status["status"] == "failed" and status["message"] == "The device has too little memory"
    assert status["error"] == {"code": "out_of_memory", "message": "The device has too little memory"}
    assert status["video_path"] is None and status["result_url"] is None


async def test_every_path_answers_with_and_without_a_slash(service: HttpService):
    task_id = await service.finished()
    for path in (
        f"/v1/tasks/{task_id}/status",
        f"/v1/tasks/{task_id}/result",
        "/v1/tasks",
        "/v1/tasks/queue/status",
        "/v1/service/status",
        "/v1/service/metadata",
        "/v1/local/video/generate/service_status",
        "/health",
    ):
        answers = [await service.client.get(path + slash) for slash in ("", "/")]
        assert [answer.status_code for answer in answers] == [200, 200], path
    for path in ("/v1/tasks/video", "/v1/tasks/video/"):
        assert (await service.client.post(path, json={"prompt": "x"})).status_code == 200
    assert (await service.client.post("/v1/tasks/video/form/", data={"prompt": "x"})).status_code == 200
    assert (await service.client.delete(f"/v1/tasks/{task_id}/")).status_code == 200


async def test_tasks_are_listed_newest_first_in_pages(service: HttpService):
    ids = [(await service.submit())["task_id"] for _ in range(5)]
    first = (await service.client.get("/v1/tasks?limit=3")).json()
    assert [task["task_id"] for task in first["tasks"]] == ids[:1:-1] and first["has_more"]
    rest = (await service.client.get(f"/v1/tasks?limit=3&after={ids[2]}")).json()
    assert [task["task_id"] for task in rest["tasks"]] == ids[1::-1] and not rest["has_more"]


async def test_a_list_can_be_of_some_statuses(service: HttpService):
    done = await service.finished()
    waiting = (await service.submit())["task_id"]
    await service.submit()
    await service.client.delete(f"/v1/tasks/{waiting}")
    listed = (await service.client.get("/v1/tasks?status=succeed,cancelled")).json()["tasks"]
    assert [task["task_id"] for task in listed] == [waiting, done]


async def test_a_cancel_answers_whether_it_cancelled_the_task(service: HttpService):
    task_id = (await service.submit())["task_id"]
    first = (await service.client.delete(f"/v1/tasks/{task_id}")).json()
    second = (await service.client.delete(f"/v1/tasks/{task_id}")).json()
    assert first == {"stop_status": "success", "reason": "Task stopped successfully."}
    assert second["stop_status"] == "do_nothing" and "cancelled" in second["reason"]
    assert (await service.status(task_id))["status"] == "cancelled"
    assert len(service.nudges) == 2  # the submit and the one cancel that did something
    assert [task.status for task in service.cancelled] == [Status.CANCELLED]


async def test_a_running_task_is_cancelled_and_its_runner_told_to_leave(service: HttpService):
    task_id = (await service.submit())["task_id"]
    task = await service.claim()
    assert (await service.client.delete(f"/v1/tasks/{task_id}")).json()["stop_status"] == "success"
    assert not await service.ledger.report(task.uid, task.attempt, at(1, 0.1))


async def test_a_finished_task_cannot_be_cancelled(service: HttpService):
    task_id = await service.finished()
    answer = (await service.client.delete(f"/v1/tasks/{task_id}")).json()
    assert answer["stop_status"] == "do_nothing" and "succeed" in answer["reason"]
    assert (await service.status(task_id))["status"] == "succeed"


async def test_all_queued_and_running_tasks_can_be_cancelled(service: HttpService):
    done = await service.finished()
    ids = [(await service.submit())["task_id"] for _ in range(3)]
    await service.claim()
    answer = (await service.client.delete("/v1/tasks/all/running")).json()
    assert answer["stop_status"] == "success" and answer["reason"].endswith(" 3.")
    assert {(await service.status(task_id))["status"] for task_id in ids} == {"cancelled"}
    assert (await service.status(done))["status"] == "succeed"
    assert (await service.client.delete("/v1/tasks/all/running")).json()["stop_status"] == "do_nothing"


async def test_a_waiting_task_is_moved_before_the_others(service: HttpService):
    first, second = [(await service.submit())["task_id"] for _ in range(2)]
    moved = await service.client.patch(f"/v1/tasks/{second}", json={"priority": 5})
    assert moved.status_code == 200, moved.text
    assert (moved.json()["task_id"], moved.json()["priority"]) == (second, 5)
    assert moved.json()["queue_position"] == 1
    assert [(await service.claim()).id for _ in range(2)] == [second, first]


async def test_only_a_waiting_task_can_be_moved(service: HttpService):
    running = (await service.submit())["task_id"]
    await service.claim()
    done = await service.finished()
    for task_id in (running, done):
        refused = await service.client.patch(f"/v1/tasks/{task_id}", json={"priority": 5})
        assert (refused.status_code, refused.json()["code"]) == (409, "not_waiting")
        assert (await service.status(task_id))["priority"] == 0
    unknown = await service.client.patch("/v1/tasks/nobodys", json={"priority": 5})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "task_not_found")


@pytest.mark.parametrize(
    "body", [{}, {"priority": "high"}, {"priority": 1.5}, {"priority": 11}, {"priority": None}]
)
async def test_a_priority_that_makes_no_sense_moves_nothing(service: HttpService, body: dict[str, object]):
    task_id = (await service.submit())["task_id"]
    refused = await service.client.patch(f"/v1/tasks/{task_id}", json=body)
    assert (refused.status_code, refused.json()["field"]) == (422, "priority")
    assert (await service.status(task_id))["priority"] == 0


async def test_the_log_notes_moves_and_no_prompts(service: HttpService, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="ray.serve"):
        task_id = (await service.submit(prompt="a secret cat"))["task_id"]
        await service.client.delete(f"/v1/tasks/{task_id}")
    assert '"move": "submit"' in caplog.text and '"move": "cancel"' in caplog.text
    assert task_id in caplog.text and "secret" not in caplog.text
