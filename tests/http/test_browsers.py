"""Pages of other sites: they can change nothing, read nothing and pose as this service's own."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from serve_app.api.application import SURFACES
from serve_app.api.http.hosts import AllowedHosts
from tests.http.http_service import HttpService, refusal_of, running, settings, with_key
from tests.http.toy_surface import toy_surface

STOP = "/v1/local/video/generate/stop_running_task"
ELSEWHERE = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://service:81"},
    {"Origin": "http://service", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    {"Referer": "http://evil.example/page"},
]
OURS: list[dict[str, str]] = [
    {},
    {"Origin": "http://service"},
    {"Origin": "http://service:80", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://service"},
    {"Sec-Fetch-Site": "none"},
    {"Referer": "http://service/"},
]
BODIES = {
    "multipart/form-data; boundary=b": (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nevil\r\n--b--\r\n'
    ),
    "application/x-www-form-urlencoded": b"prompt=evil",
    "text/plain": b'{"prompt": "evil", "task_id": "evil", "save_video_path": "e.mp4"}',
    "": b'{"prompt": "evil"}',
}
"""Bodies that a browser sends to another site without asking first, by their content type."""


@pytest_asyncio.fixture(params=[None, "alice"])
async def service(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[HttpService]:
    """The service with one more surface and a queued task, without keys and with one."""
    key: str | None = request.param
    keys = [{"name": key, "sha256": hashlib.sha256(key.encode()).hexdigest()}] if key else []
    async with running(settings(folder, keys=keys), surfaces=(*SURFACES, toy_surface)) as service:
        service.client.headers.update(with_key(key))
        await service.submit(task_id="waiting")
        yield service


def assert_refused(response: httpx.Response, code: str) -> None:
    assert (response.status_code, refusal_of(response)["code"]) == (403, code), response.text


async def changes(service: HttpService) -> list[tuple[str, str]]:
    """Return the method and path of every operation that changes something."""
    document = (await service.client.get("/openapi.json")).json()
    found = [
        (method.upper(), path.format(task_id="waiting", file_path="x"))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method not in ("get", "head") or "x-changes-tasks" in operation
    ]
    assert ("GET", STOP) in found and len(found) >= 8
    return found


async def test_a_page_of_another_site_changes_nothing_on_any_path(service: HttpService):
    for method, path in await changes(service):
        for headers in ELSEWHERE:
            for kind, body in BODIES.items() if method == "POST" else [("", b"")]:
                sent = {**headers, **({"Content-Type": kind} if kind else {})}
                response = await service.client.request(method, path, headers=sent, content=body)
                assert_refused(response, "other_site")
    (task,) = (await service.client.get("/v1/tasks")).json()["tasks"]
    assert (task["task_id"], task["status"]) == ("waiting", "submitted")


@pytest.mark.parametrize("headers", OURS)
async def test_programs_and_the_services_own_pages_change_what_they_like(
    service: HttpService, headers: dict[str, str]
):
    response = await service.client.post("/v1/tasks/video", json={"prompt": "a cat"}, headers=headers)
    assert response.status_code == 200, response.text
    assert (await service.client.get(STOP, headers=headers)).status_code == 200
    response = await service.client.delete("/v1/tasks/waiting", headers=headers)
    assert response.json()["stop_status"] == "success"


async def test_no_page_of_another_site_can_read_an_answer(service: HttpService):
    for headers in ELSEWHERE:
        response = await service.client.get("/v1/tasks", headers=headers)
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "DELETE"}
    response = await service.client.options("/v1/tasks/waiting", headers=asks)
    assert response.status_code == 204 and "access-control-allow-origin" not in response.headers


async def test_a_page_of_another_site_stops_no_running_task(service: HttpService):
    task = await service.claim()
    assert_refused(await service.client.get(STOP, headers={"Sec-Fetch-Site": "cross-site"}), "other_site")
    assert [found.uid for found in await service.store.running()] == [task.uid]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "a@b", "[::1"]
)
async def test_a_foreign_host_is_refused_on_every_path_without_keys(folder: Path, host: str):
    async with running(settings(folder)) as service:
        document = (await service.client.get("/openapi.json")).json()
        for path in ("/", "/docs", "/openapi.json", "/health", "/nowhere", *document["paths"]):
            for method in ("GET", "POST", "OPTIONS"):
                response = await service.client.request(method, path, headers={"Host": host})
                assert_refused(response, "host_not_allowed")


@pytest.mark.parametrize(
    ("listed", "keyed", "host", "is_allowed"),
    [
        ((), False, "127.0.0.1:8000", True),
        ((), False, "10.1.2.3", True),
        ((), False, "[::1]:8000", True),
        ((), False, "localhost:8000", True),
        ((), False, "gpu-box", True),
        ((), False, "wan-serve.default.svc.cluster.local:8000", True),
        ((), False, "LOCALHOST.", True),
        ((), False, "video.example.com", False),
        ((), False, "127.0.0.1.evil.example", False),
        ((), False, "evil.example:port", False),
        ((), True, "video.example.com", True),
        (("video.example.com",), True, "video.example.com:8443", True),
        (("video.example.com",), True, "other.example.com", False),
        (("video.example.com",), False, "Video.Example.com", True),
        (("*.example.com",), False, "a.b.example.com", True),
        (("*.example.com",), False, "example.com", False),
        (("*.example.com",), False, "notexample.com", False),
        (("*",), False, "anything.at.all", True),
        (("video.example.com",), True, "127.0.0.1", True),
    ],
)
def test_hosts(listed: tuple[str, ...], keyed: bool, host: str, is_allowed: bool):
    assert AllowedHosts(listed, others_have_keys=keyed).allows(host) is is_allowed


FRIEND = "https://app.example.com"


@pytest_asyncio.fixture
async def shared(folder: Path) -> AsyncIterator[HttpService]:
    """The service with an API key, which shares itself with the pages of one site."""
    keys = [{"name": "alice", "sha256": hashlib.sha256(b"alice").hexdigest()}]
    async with running(settings(folder, keys=keys, allowed_origins=[FRIEND])) as service:
        yield service


async def test_a_page_of_an_allowed_origin_may_do_everything(shared: HttpService):
    asks = {
        "Origin": FRIEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
    }
    preflight = await shared.client.options("/v1/tasks/video", headers=asks)
    assert preflight.status_code == 200, "it comes without a key"
    assert preflight.headers["access-control-allow-origin"] == FRIEND
    page = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}
    made = await shared.client.post(
        "/v1/tasks/video", json={"prompt": "a cat"}, headers={**page, **with_key("alice")}
    )
    assert made.status_code == 200 and made.headers["access-control-allow-origin"] == FRIEND
    refused = await shared.client.get("/v1/tasks", headers=page)
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == FRIEND


async def test_another_origin_gets_nothing_of_what_an_allowed_one_gets(shared: HttpService):
    page = {"Origin": "https://app.example.com.evil.example", "Access-Control-Request-Method": "POST"}
    response = await shared.client.options("/v1/tasks/video", headers={**page, **with_key("alice")})
    assert response.status_code == 204 and "access-control-allow-origin" not in response.headers
    assert "Origin" in response.headers["vary"]
    response = await shared.client.post("/v1/tasks/video", json={"prompt": "x"}, headers=page)
    assert_refused(response, "other_site")


async def test_every_answer_tells_browsers_to_do_nothing_else_with_it(service: HttpService):
    await service.publish(await service.claim())
    paths = ["/", "/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/openapi.json", "/health"]
    paths += [
        "/v1/tasks",
        "/v1/tasks/waiting/status",
        "/v1/tasks/waiting/result",
        "/nowhere",
        "/v1/tasks/x/status",
    ]
    for path in paths:
        headers = (await service.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "no-referrer", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert "unsafe-inline" not in headers["content-security-policy"].partition("style-src")[0], path
        assert headers["cache-control"] in ("no-store", "private, no-cache"), path
    assert "<script>" not in (await service.client.get("/docs")).text


async def test_a_video_that_the_client_has_is_not_sent_again(service: HttpService):
    await service.publish(await service.claim())
    first = await service.client.get("/v1/tasks/waiting/result")
    assert first.headers["cache-control"] == "private, no-cache"
    for tag in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await service.client.get("/v1/tasks/waiting/result", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    other = await service.client.get("/v1/tasks/waiting/result", headers={"If-None-Match": '"other"'})
    assert other.content == first.content


@pytest.mark.parametrize(
    "changes",
    [
        {"allowed_hosts": ["http://video.example.com"]},
        {"allowed_hosts": ["video.example.com:8000"]},
        {"allowed_hosts": ["a.*.com"]},
        {"allowed_origins": ["app.example.com"]},
        {"allowed_origins": ["https://app.example.com/"]},
        {"allowed_origins": ["*"]},
    ],
)
def test_a_list_of_something_else_stops_the_start(folder: Path, changes: dict[str, list[str]]):
    (field,) = changes
    with pytest.raises(ValueError, match=rf"{field}\.0\n.*such as"):
        settings(folder, **changes)
