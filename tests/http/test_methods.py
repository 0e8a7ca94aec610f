"""HEAD, OPTIONS and refused methods, on every path of the document and beside it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.application import SURFACES
from serve_app.api.http.auth import is_open
from serve_app.api.http.methods import Methods
from serve_app.api.http.route_table import RouteTable
from tests.http.http_service import VIDEO, HttpService, as_text, png, running, settings, with_key
from tests.http.test_refusals import assert_refused
from tests.http.toy_surface import toy_surface

STOP = "/v1/local/video/generate/stop_running_task"
STOPS = {STOP, f"/lightx2v{STOP}"}
ENDLESS = "/v1/events"
"""The stream whose body has no end."""
ALL = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNLISTED = {
    "/": {"GET"},
    "/docs": {"GET"},
    "/docs/assets/swagger-ui.css": {"GET"},
    "/openapi.json": {"GET"},
}
"""Paths that the document leaves out."""


@pytest_asyncio.fixture
async def service(folder: Path) -> AsyncIterator[HttpService]:
    """The service with one more surface, a replica and finished tasks, some of them with a route's name."""
    async with running(settings(folder), surfaces=(*SURFACES, toy_surface)) as service:
        await service.add_replica()
        for task_id in ("done", "edits", "extensions"):
            await service.finished(task_id=task_id, image_path=as_text(png()))
        yield service


async def paths(service: HttpService) -> dict[str, set[str]]:
    """Every path, about the finished task where it is about one, and the methods that it is said to take."""
    document = (await service.client.get("/openapi.json")).json()
    found = {
        path.format(task_id="done", file_path="outputs/videos/done.mp4", model="demo"): {
            name.upper() for name in operations
        }
        for path, operations in document["paths"].items()
    }
    assert len(found) >= 17, "the document was not read"
    # A task of that id could be cancelled and moved, too.
    found["/v1/tasks/video"] |= {"DELETE", "PATCH"}
    found["/lightx2v/v1/tasks/video"] |= {"DELETE"}
    found["/lightx2v/v1/tasks"] |= {"POST"}
    for task_id in ("edits", "extensions"):
        found[f"/v1/videos/{task_id}"] |= {"GET", "DELETE"}
    return {**found, **UNLISTED}


def taken(methods: set[str], path: str) -> set[str]:
    head = {"HEAD"} if "GET" in methods and path not in STOPS else set()
    return methods | head | {"OPTIONS"}


def allowed(response: httpx.Response) -> set[str]:
    return set(response.headers["allow"].split(", "))


@pytest.mark.parametrize("slash", ["", "/"])
async def test_options_says_what_each_path_takes(service: HttpService, slash: str):
    for path, methods in (await paths(service)).items():
        response = await service.client.options(path.rstrip("/") + slash or "/")
        assert (response.status_code, response.content) == (204, b""), path
        assert allowed(response) == taken(methods, path), path


async def test_head_is_answered_as_get_is_without_the_body(service: HttpService):
    for path, methods in (await paths(service)).items():
        if "GET" not in methods or path in STOPS:
            continue
        head = await service.client.head(path)
        if path == ENDLESS:
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"].startswith("text/event-stream")
            continue
        whole = await service.client.get(path)
        assert whole.status_code == head.status_code == 200, path
        assert head.content == b"" and whole.content, path
        for name in ("content-type", "content-length", "etag", "accept-ranges", "content-disposition"):
            assert head.headers.get(name) == whole.headers.get(name), (path, name)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/tasks/unknown/status", 404),
        ("/nothing", 404),
        ("/v1/tasks?limit=0", 422),
        ("/docs/assets/x", 404),
    ],
)
async def test_head_of_what_is_refused_has_the_refusals_status(service: HttpService, path: str, status: int):
    response = await service.client.head(path)
    assert response.status_code == status
    assert response.headers["content-length"] == (await service.client.get(path)).headers["content-length"]


async def test_head_of_a_service_that_is_not_ready_says_so(folder: Path):
    async with running(settings(folder)) as service:
        assert (await service.client.head("/health")).status_code == 200
        assert (await service.client.head("/ready")).status_code == 503


async def test_head_takes_ranges_as_get_does(service: HttpService):
    response = await service.client.head("/v1/tasks/done/result", headers={"Range": "bytes=0-9"})
    assert (response.status_code, response.content) == (206, b"")
    assert response.headers["content-range"] == f"bytes 0-9/{len(VIDEO)}"


async def test_head_stops_no_task(service: HttpService):
    await service.submit(task_id="runs")
    await service.claim()
    response = await service.client.head(STOP)
    assert response.status_code == 405 and allowed(response) == {"GET", "OPTIONS"}
    assert (await service.status("runs"))["status"] == "running"


async def test_any_other_method_is_refused_with_those_there_are(service: HttpService):
    for path, methods in (await paths(service)).items():
        for method in set(ALL) - taken(methods, path) - {"HEAD"}:
            response = await service.client.request(method, path)
            assert assert_refused(response, 405)["code"] == "method_not_allowed", (method, path)
            assert allowed(response) == taken(methods, path), (method, path)


async def test_options_of_an_unknown_path_is_a_404(service: HttpService):
    assert_refused(await service.client.options("/v1/nothing"), 404)


async def test_paths_are_known_where_the_service_is_mounted(service: HttpService):
    transport = httpx.ASGITransport(service.api, root_path="/wan")
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.head("/wan/health")).status_code == 200
        assert (await client.options("/wan/v1/tasks/video/form")).status_code == 204


async def test_head_of_an_endless_answer_ends():
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(endless())(scope, receive, send)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    app = Methods(answer, RouteTable([Route("/events", answer)]))
    scope: Scope = {
        "type": "http", "asgi": {"spec_version": "2.4"}, "method": "HEAD", "path": "/events", "headers": [],
    }  # fmt: skip
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert not sent[1]["body"] and not sent[1].get("more_body")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_no_path_answers_without_a_key_where_get_does_not(folder: Path, method: str):
    keys = [{"name": "alice", "sha256": hashlib.sha256(b"hers").hexdigest()}]
    async with running(settings(folder, keys=keys), surfaces=(*SURFACES, toy_surface)) as service:
        for path in await paths(service):
            response = await service.client.request(method, path)
            assert (response.status_code == 401) == (not is_open(path)), path
            known = await service.client.request(method, path, headers=with_key("hers"))
            assert known.status_code != 401, path
