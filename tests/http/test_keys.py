"""API keys: each task belongs to its key; on every route, other keys are answered as if it did not exist."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.routing import iter_route_contexts

from serve_app.api.http.auth import is_open
from serve_app.store.run_ledger import RunLedger
from serve_app.tasks.caller import EVERYONE, Caller
from serve_app.tasks.transitions import Status
from tests.http.http_service import (
    VIDEO,
    HttpService,
    as_text,
    png,
    refusal_of,
    running,
    settings,
    with_key,
)
from tests.http.route_table import (
    BODIES,
    DONE,
    EDIT,
    ENDLESS,
    FORGETS,
    OF_A_MODEL,
    OF_A_TASK_IN_THE_BODY,
    OF_A_WAITING_TASK,
    QUEUED,
    RUNNING,
    SAYS_NOTHING,
    STOPS,
    STOPS_WAITING,
    TELLS_WHICH,
    UNSUPPORTED,
)

ALICE, BOB, BOSS = "key-of-alice", "key-of-bob", "key-of-boss"
SECRET = "a cat that only alice knows"
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOOK = "https://hooks.example/alice-only"
PICTURE = as_text(png())


def configured(name: str, key: str, **rules: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **rules}


def keys(**of_alice: Any) -> list[dict[str, Any]]:
    return [
        configured("alice", ALICE, webhook_secrets=[WEBHOOK_SECRET], **of_alice),
        configured("bob", BOB),
        configured("boss", BOSS, admin=True),
    ]


@pytest_asyncio.fixture
async def service(folder: Path) -> AsyncIterator[HttpService]:
    """The service with three keys, and three tasks of alice's."""
    async with running(settings(folder, keys=keys())) as service:
        await service.add_replica()
        await service.finished(key=ALICE, task_id=DONE, prompt=SECRET, callback_url=HOOK, image_path=PICTURE)
        await service.submit(key=ALICE, task_id=RUNNING, prompt=SECRET)
        await service.claim()
        await service.submit(key=ALICE, task_id=QUEUED, prompt=SECRET)
        yield service


def routes(service: HttpService) -> list[tuple[str, str]]:
    """Return method and path of every route that needs a key, from the application's own table."""
    found = [
        (method, route.path)
        for route in iter_route_contexts(service.api.routes)
        if route.path is not None and not is_open(f"{route.path}/" if route.methods is None else route.path)
        for method in sorted(route.methods or ())
    ]
    assert len(found) >= 15, "the table was not read"
    return [route for route in found if route[1] not in UNSUPPORTED]


async def call(
    service: HttpService, method: str, path: str, key: str | None, task_id: str = DONE
) -> httpx.Response:
    """Call a route of the table; one about a task is asked for alice's."""
    url = path.replace(":path}", "}").format(
        task_id=task_id, file_path=f"outputs/alice/videos/{task_id}.mp4", model="demo"
    )
    body: dict[str, Any] = {}
    if method in ("POST", "PATCH"):
        sent = BODIES[path]
        body = {"data" if path.endswith("/form") else "json": sent}
    return await service.client.request(method, url, headers=with_key(key), **body)


async def statuses(service: HttpService) -> list[Status]:
    return [(await service.store.get(Caller("alice"), id_)).status for id_ in (DONE, RUNNING, QUEUED)]


AS_THEY_WERE = [Status.SUCCEEDED, Status.RUNNING, Status.QUEUED]


async def test_no_route_answers_without_a_known_key(service: HttpService):
    for method, path in routes(service):
        for key in (None, "", "guessed", hashlib.sha256(ALICE.encode()).hexdigest(), f"{ALICE} {BOB}"):
            response = await call(service, method, path, key)
            assert response.status_code == 401, (method, path, key)
            assert response.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert refusal_of(response)["code"] == "unauthorized"
    assert await statuses(service) == AS_THEY_WERE


async def test_no_route_shows_or_touches_a_task_of_another_key(service: HttpService):
    for method, path in routes(service):
        if path == ENDLESS:
            continue
        if path in OF_A_TASK_IN_THE_BODY:
            response = await call(service, method, path, BOB)
            assert refusal_of(response)["code"] == "task_not_found" and SECRET not in response.text
            continue
        if "{" not in path or path == OF_A_MODEL:
            response = await call(service, method, path, BOB)
            assert response.status_code == 200, (method, path, response.text)
            for text in (SECRET, WEBHOOK_SECRET, HOOK, "alice", DONE, RUNNING, QUEUED):
                assert text not in response.text, (method, path)
            continue
        for task_id in (DONE, RUNNING, QUEUED):
            response = await call(service, method, path, BOB, task_id)
            unknown = await call(service, method, path, BOB, "nobodys")
            wanted = 200 if (method, path) == SAYS_NOTHING else 404
            assert response.status_code == unknown.status_code == wanted, (method, path)
            assert response.text.replace(task_id, "nobodys") == unknown.text
    assert await statuses(service) == AS_THEY_WERE


@pytest.mark.parametrize("key", [ALICE, BOSS], ids=["owner", "admin"])
async def test_every_route_answers_the_owner_of_a_task_and_an_admin(service: HttpService, key: str):
    for method, path in routes(service):
        if (method, path) in STOPS | {STOPS_WAITING, FORGETS} or path == ENDLESS:
            continue
        task_id = QUEUED if (method, path) in OF_A_WAITING_TASK else DONE
        if path == "/v1/tasks/{task_id}/finish_early":
            task_id = RUNNING
        response = await call(service, method, path, key, task_id)
        assert response.status_code == (422 if path == EDIT else 200), (method, path, response.text)
        if method == "GET" and "{" not in path:
            assert all(task_id in response.text for task_id in TELLS_WHICH[path]), path
    assert (await call(service, "GET", "/v1/tasks/{task_id}/result", key)).content == VIDEO
    done = await call(service, "POST", "/v1/local/video/generate/task_status", key)
    assert done.json()["success"] is True and done.json()["message"]["prompt"] == SECRET


@pytest.mark.parametrize("key", [ALICE, BOSS], ids=["owner", "admin"])
@pytest.mark.parametrize(("method", "path"), sorted(STOPS))
async def test_its_owner_and_an_admin_can_stop_a_task(service: HttpService, key: str, method: str, path: str):
    assert (method, path) in routes(service)
    response = await call(service, method, path, key, RUNNING)
    assert response.json()["stop_status"] == "success"
    assert (await statuses(service))[:2] == [Status.SUCCEEDED, Status.CANCELLED]


@pytest.mark.parametrize("key", [ALICE, BOSS], ids=["owner", "admin"])
async def test_waiting_tasks_are_cancelled_by_their_owner_and_an_admin(service: HttpService, key: str):
    assert STOPS_WAITING in routes(service)
    assert (await call(service, *STOPS_WAITING, key)).json()["stop_status"] == "success"
    assert await statuses(service) == [Status.SUCCEEDED, Status.RUNNING, Status.CANCELLED]


async def test_an_owner_can_delete_a_video_and_no_other_key_can(service: HttpService):
    method, path = FORGETS
    assert (await call(service, method, path, BOB)).status_code == 404
    assert (await call(service, method, path, ALICE)).json()["deleted"] is True
    assert (await call(service, "GET", "/v1/tasks/{task_id}/status", ALICE)).status_code == 404


async def test_what_is_not_supported_needs_a_key_all_the_same(service: HttpService):
    for path in UNSUPPORTED:
        assert (await call(service, "POST", path, None)).status_code == 401
        assert (await call(service, "POST", path, BOB)).status_code == 400


async def test_open_routes_need_no_key_and_tell_of_no_task(service: HttpService):
    for path in ("/", "/health", "/ready", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"):
        for slash in ("", "/"):
            response = await service.client.get(path + slash)
            assert response.status_code == 200, path
            assert RUNNING not in response.text


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v2/tasks", "/nothing", "/docs/../v1/tasks", "//v1/tasks", "/health/../v1/tasks", "/docs/oauth"],
)
async def test_every_route_not_listed_as_open_needs_a_key(service: HttpService, path: str):
    assert (await service.client.get(path)).status_code == 401


async def test_a_key_can_be_sent_in_either_header(service: HttpService):
    for headers in (
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"bearer  {ALICE} "},
        {"X-API-Key": ALICE},
        {"X-API-Key": ALICE, "Authorization": "Basic eDp5"},
    ):
        assert (await service.client.get("/v1/tasks", headers=headers)).status_code == 200, headers
    refused: tuple[Any, ...] = (
        {"Authorization": ALICE},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-API-Key": f"{ALICE}x"},
    )
    for bad in refused:
        assert (await service.client.get("/v1/tasks", headers=bad)).status_code == 401, bad


async def test_no_key_is_no_key_even_where_its_hash_is_configured(folder: Path):
    async with running(settings(folder, keys=[configured("nobody", "")])) as service:
        for headers in ({}, {"Authorization": "Bearer "}, {"X-API-Key": ""}):
            assert (await service.client.get("/v1/tasks", headers=headers)).status_code == 401


async def test_nothing_of_a_body_is_read_without_a_key(service: HttpService):
    response = await service.client.post("/v1/tasks/video", content=b"{" * 40_000_000)
    assert response.status_code == 401


async def test_owners_can_use_the_same_ids_and_idempotency_keys(service: HttpService):
    headers = {"Idempotency-Key": "once", **with_key(BOB)}
    body = {"prompt": "a dog", "task_id": DONE}
    first = await service.client.post("/v1/tasks/video", json=body, headers=headers)
    assert first.status_code == 200 and first.json()["save_result_path"] == f"outputs/bob/videos/{DONE}.mp4"
    again = await service.client.post("/v1/tasks/video", json=body, headers=headers)
    assert again.status_code == 200
    hers = await service.client.post(
        "/v1/tasks/video", json={"prompt": "x"}, headers={**headers, **with_key(ALICE)}
    )
    assert hers.status_code == 200 and hers.json()["task_id"] != DONE
    taken = await service.client.post("/v1/tasks/video", json=body, headers=with_key(BOB))
    assert taken.status_code == 409
    assert (await service.store.get(Caller("alice"), DONE)).status is Status.SUCCEEDED


async def test_an_admin_is_told_whose_a_task_is(service: HttpService):
    await service.submit(key=BOB, task_id="his")
    listed = (await service.client.get("/v1/tasks", headers=with_key(BOSS))).json()["tasks"]
    assert {task["task_id"]: task["owner"] for task in listed} == {
        DONE: "alice",
        RUNNING: "alice",
        QUEUED: "alice",
        "his": "bob",
    }


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("x.mp4", "outputs/alice/x.mp4"),
        ("./cats/x", "outputs/alice/cats/x.mp4"),
        ("outputs/cats/x.mp4", "outputs/alice/cats/x.mp4"),
        ("outputs/alice/x.mp4", "outputs/alice/x.mp4"),
        ("bob/videos/x.mp4", "outputs/alice/bob/videos/x.mp4"),
        ("outputs/bob/x.mp4", "outputs/alice/bob/x.mp4"),
    ],
)
async def test_an_owners_videos_lie_below_a_folder_of_its_own(service: HttpService, path: str, place: str):
    answer = await service.submit(key=ALICE, save_result_path=path)
    assert answer["save_result_path"] == place


async def test_a_video_is_downloaded_by_every_name_that_it_was_given(service: HttpService):
    await service.store.cancel_all(EVERYONE)
    await service.finished(key=ALICE, save_result_path="cats/x.mp4")
    for name in ("cats/x.mp4", "outputs/cats/x.mp4", "outputs/alice/cats/x.mp4"):
        response = await service.client.get(f"/v1/files/download/{name}", headers=with_key(ALICE))
        assert response.status_code == 200 and response.content == VIDEO
        assert (
            await service.client.get(f"/v1/files/download/{name}", headers=with_key(BOB))
        ).status_code == 404


async def test_only_an_admin_names_absolute_places(folder: Path):
    (folder / "more").mkdir()
    path = str(folder / "more" / "x.mp4")
    async with running(settings(folder, keys=keys(), output_roots=[folder / "more"])) as service:
        assert (await service.submit(key=BOSS, save_result_path=path))["save_result_path"] == path
        for forbidden in (path, str(folder / "data/outputs/bob/x.mp4"), "../bob/x.mp4"):
            response = await service.client.post(
                "/v1/tasks/video",
                json={"prompt": "x", "save_result_path": forbidden},
                headers=with_key(ALICE),
            )
            assert response.status_code == 403 and response.json()["code"] == "path_forbidden"
        published = await service.publish(await service.claim())
        for key, status in ((BOSS, 200), (ALICE, 404)):
            response = await service.client.get(
                f"/v1/files/download{published.save_path}", headers=with_key(key)
            )
            assert response.status_code == status


async def test_a_key_at_its_limit_of_queued_tasks_is_refused_and_the_others_are_not(folder: Path):
    async with running(settings(folder, keys=keys(max_queued=2), limits={"max_queued": 4})) as service:
        answers = await asyncio.gather(
            *(
                service.client.post("/v1/tasks/video", json={"prompt": "x"}, headers=with_key(ALICE))
                for _ in range(5)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["code"] == "over_quota" and int(refused.headers["retry-after"]) >= 1
        await service.submit(key=BOB)
        await service.submit(key=BOB)
        full = await service.client.post("/v1/tasks/video", json={"prompt": "x"}, headers=with_key(BOB))
        assert full.status_code == 429 and full.json()["code"] == "queue_full"


async def test_a_key_has_its_own_highest_priority(folder: Path):
    async with running(settings(folder, keys=keys(max_priority=2))) as service:
        await service.submit(key=ALICE, task_id=ALICE)
        await service.submit(key=BOB, task_id=BOB)
        for key, priority, status in ((ALICE, 2, 200), (ALICE, 3, 422), (ALICE, -10, 200), (BOB, 10, 200)):
            moved = await service.client.patch(
                f"/v1/tasks/{key}", json={"priority": priority}, headers=with_key(key)
            )
            assert moved.status_code == status, (key, priority)
            response = await service.client.post(
                "/v1/tasks/video", json={"prompt": "x", "priority": priority}, headers=with_key(key)
            )
            assert response.status_code == status, (key, priority)


async def test_the_local_surface_is_busy_for_a_key_that_runs_as_many_as_it_may(folder: Path):
    async with running(settings(folder, keys=keys(max_running=1))) as service:
        for number in range(3):
            await service.add_replica(f"demo-{number}")

        async def generate(key: str, task_id: str) -> dict[str, Any]:
            body = {"task_id": task_id, "prompt": "x", "save_video_path": "x.mp4"}
            return dict(
                (
                    await service.client.post("/v1/local/video/generate", json=body, headers=with_key(key))
                ).json()
            )

        assert "task_status" in await generate(ALICE, "1")
        assert await generate(ALICE, "2") == {"error": "Service busy"}
        assert "task_status" in await generate(BOB, "1")


async def test_a_status_tells_the_place_that_fair_turns_will_give(folder: Path):
    async with running(settings(folder, keys=keys())) as service:
        ledger = await RunLedger.take_lead(
            service.database, lease_s=30, grace_s=10, shares=service.settings.shares
        )
        for number in range(4):
            await service.submit(key=ALICE, task_id=f"a{number}")
        await service.submit(key=BOB, task_id="b")
        first = await ledger.claim("demo", "r")
        assert first is not None and first.id == "a0"
        await service.client.get("/v1/service/status", headers=with_key(BOB))  # looks at the queue anew
        status = await service.client.get("/v1/tasks/b/status", headers=with_key(BOB))
        assert status.json()["queue_position"] == 1
        following = await ledger.claim("demo", "r")
        assert following is not None and following.id == "b"


async def test_the_document_tells_of_keys_where_there_are_any(service: HttpService, folder: Path):
    document = (await service.client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) is ("401" in operation["responses"]) is not is_open(path), path
    async with running(settings(folder)) as without_keys:
        document = (await without_keys.client.get("/openapi.json")).json()
    assert "security" not in json.dumps(document)


async def test_without_keys_everyone_sees_all_and_a_key_that_is_sent_does_not_matter(folder: Path):
    async with running(settings(folder, keys=keys())) as service:
        await service.submit(key=ALICE, task_id="hers")
    async with running(settings(folder)) as service:
        assert (await service.status("hers"))["status"] == "submitted"
        answer = await service.submit(key="whatever", task_id="any")
        assert answer["save_result_path"] == "outputs/videos/any.mp4"


async def test_the_hash_is_all_that_is_known_of_a_key(service: HttpService):
    assert ALICE not in service.settings.model_dump_json()
