"""The OpenAPI document: every answer is described, and real answers are as described."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import pytest_asyncio

from serve_app.tasks.replica import Health
from tests.http.http_service import HttpService, running, settings

Schema = dict[str, Any]
LOCAL = "/v1/local/video/generate"


@pytest_asyncio.fixture
async def service(folder: Path) -> AsyncIterator[HttpService]:
    """A service with two replicas, a finished task, a failed one's replica and a queued task."""
    webhooks = {"secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}
    async with running(settings(folder, limits={"max_queued": 5}, webhooks=webhooks)) as service:
        await service.add_replica()
        await service.add_replica(
            "demo-2", health=Health.SETUP_FAILED, reason="The model could not be loaded."
        )
        await service.finished(task_id="done", callback_url="https://hooks.example/")
        await service.submit(task_id="waiting")
        yield service


async def document_of(service: HttpService) -> Schema:
    document: Schema = (await service.client.get("/openapi.json")).json()
    return document


def answers(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Return method, path and schema of each answer that is a JSON document."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation["responses"]["200"]["content"]
            if "application/json" in content:
                yield method, path, content["application/json"]["schema"]


def parts(schema: Schema, document: Schema) -> list[Schema]:
    """Return the described objects of a schema; empty where it describes none."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return parts(document["components"]["schemas"][name], document)
    if "anyOf" in schema:
        return [part for one in schema["anyOf"] for part in parts(one, document) or [{}]]
    if isinstance(schema.get("additionalProperties"), dict):
        return parts(schema["additionalProperties"], document)
    return [schema] if schema.get("properties") else []


async def test_every_answer_is_described_field_by_field(service: HttpService):
    document = await document_of(service)
    seen = list(answers(document))
    assert len(seen) >= 14, "the document was not read"
    assert not [name for name in document["components"]["schemas"] if "__" in name], "two of one name"
    for method, path, schema in seen:
        found = parts(schema, document)
        assert found and all(part.get("properties") for part in found), (method, path)


def check(document: Schema, method: str, path: str, response: httpx.Response) -> None:
    """Assert that the answer has every described field and no other."""
    assert response.status_code == 200, response.text
    described = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**described, "components": document["components"]})
    if "additionalProperties" not in described:
        known = {name for part in parts(described, document) for name in part["properties"]}
        assert response.json().keys() <= known, path


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/v1/tasks/{task_id}/status", "/v1/tasks/done/status"),
        ("/v1/tasks/{task_id}/status", "/v1/tasks/waiting/status"),
        ("/v1/tasks", "/v1/tasks"),
        ("/v1/tasks/queue/status", "/v1/tasks/queue/status"),
        ("/v1/service/status", "/v1/service/status"),
        ("/v1/service/metadata", "/v1/service/metadata"),
        ("/health", "/health"),
        ("/ready", "/ready"),
        ("/lightx2v/v1/tasks/{task_id}/status", "/lightx2v/v1/tasks/done/status"),
        ("/lightx2v/v1/tasks", "/lightx2v/v1/tasks"),
        ("/v1/videos/{task_id}", "/v1/videos/done"),
        ("/v1/videos/{task_id}", "/v1/videos/waiting"),
        ("/v1/videos", "/v1/videos"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/{model}", "/v1/models/demo"),
        (f"{LOCAL}/service_status", f"{LOCAL}/service_status"),
        (f"{LOCAL}/get_all_tasks", f"{LOCAL}/get_all_tasks"),
    ],
)
async def test_every_get_answers_as_described(service: HttpService, path: str, url: str):
    check(await document_of(service), "get", path, await service.client.get(url))


async def test_every_post_and_delete_answers_as_described(service: HttpService):
    document = await document_of(service)
    for path, body in (
        ("/v1/tasks/video", {"prompt": "x"}),
        ("/v1/videos", {"prompt": "x"}),
        ("/lightx2v/v1/tasks/video", {"prompt": "x", "not_known": 1}),
        (LOCAL, {"task_id": "x", "prompt": "x", "save_video_path": "x.mp4"}),
        (f"{LOCAL}/task_status", {"task_id": "done"}),
        (f"{LOCAL}/task_status", {"task_id": "waiting"}),
    ):
        check(document, "post", path, await service.client.post(path, json=body))
    resend = "/v1/tasks/{task_id}/webhooks/resend"
    check(document, "post", resend, await service.client.post(resend.format(task_id="done")))
    for path in ("/v1/tasks/{task_id}/next", "/v1/tasks/queue/pause", "/v1/tasks/queue/resume"):
        check(document, "post", path, await service.client.post(path.format(task_id="waiting")))
    for path, url in (
        ("/v1/tasks/all/waiting", "/v1/tasks/all/waiting"),
        ("/v1/tasks/{task_id}", "/v1/tasks/waiting"),
        ("/v1/tasks/all/running", "/v1/tasks/all/running"),
    ):
        check(document, "delete", path, await service.client.delete(url))
    stop = f"{LOCAL}/stop_running_task"
    check(document, "get", stop, await service.client.get(stop))


async def test_links_begin_where_the_service_is_mounted(service: HttpService):
    for root_path, begins in (("", "/v1"), ("/wan", "/wan/v1"), ("/wan/", "/wan/v1")):
        transport = httpx.ASGITransport(service.api, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            status = (await client.get("/v1/tasks/done/status")).json()
            assert status["result_url"] == f"{begins}/tasks/done/result"
