"""Seeded random requests, many at a time: none is answered with a 5xx."""

import asyncio
import json
import random

import pytest

from serve_app.api.lightx2v.task_request import LightX2VRequest
from serve_app.api.native.video_request import VideoRequest
from serve_app.api.openai.create_request import CreateRequest
from tests.http.http_service import HttpService

ODD_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 1, 4, 4.0, 0.5, 2**31, 2**63, -(2**63), 10**40, 1e308, float("nan"), float("inf"),
    "", " ", "4", "a cat", "\0", "\ud800", "é" * 300, "x" * 6000, "../../x", "/etc/passwd", "http://[",
    "data:,", "demo", "64x64", [], [1], [64, 64], [[]], {}, {"a": {"b": []}},
)  # fmt: skip
ODD_SEGMENTS = (
    "",
    ".",
    "..",
    "%00",
    "%2e%2e",
    "%2f",
    "%ff",
    "a",
    "queue",
    "all",
    "running",
    "video",
    "x" * 300,
)
PATHS = (
    "/v1/tasks/{}/status",
    "/v1/tasks/{}/result",
    "/v1/tasks/{}",
    "/v1/files/download/{}",
    "/v1/videos/{}",
    "/v1/videos/{}/content?variant={}",
    "/v1/videos?after={}&limit={}&order={}",
    "/v1/tasks?after={}&limit={}&status={}",
    "/v1/models/{}",
    "/lightx2v/v1/tasks/{}/status",
    "/lightx2v/v1/tasks/{}/result",
    "/lightx2v/v1/tasks/{}",
    "/lightx2v/v1/files/download/{}",
    "/docs/assets/{}/{}",
    "/{}/{}",
)
BODIES = (
    "/v1/tasks/video",
    "/v1/tasks/video/form",
    "/v1/tasks/video/again",
    "/v1/videos",
    "/v1/videos/edits",
    "/v1/videos/extensions",
    "/v1/local/video/generate",
    "/v1/local/video/generate/task_status",
    "/lightx2v/v1/tasks/video",
    "/lightx2v/v1/tasks/video/form",
    "/lightx2v/v1/local/video/generate",
)
FIELDS = (
    *VideoRequest.model_fields,
    *CreateRequest.model_fields,
    *LightX2VRequest.model_fields,
    "extra_body",
    "loras[][name]",
    "input_reference[image_url]",
    "video[id]",
    "save_video_path",
    "task_id_must_unique",
    "use_prompt_enhancer",
    "other",
)


async def send(service: HttpService, chance: random.Random) -> int:
    if chance.random() < 0.3:
        path = chance.choice(PATHS)
        path = path.format(*(chance.choice(ODD_SEGMENTS) for _ in range(path.count("{}"))))
        method = chance.choice(("GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS"))
        ranges = {"Range": f"bytes={chance.choice(('', '-', '0-', '9-1', 'x'))}"}
        return (await service.client.request(method, path, headers=ranges)).status_code
    fields = {name: chance.choice(ODD_VALUES) for name in chance.sample(FIELDS, chance.randint(0, 4))}
    body = {"prompt": "a cat", "task_id": f"cat-{chance.randrange(5)}", "save_video_path": "x.mp4", **fields}
    path = chance.choice(BODIES)
    key = {"Idempotency-Key": str(chance.randrange(3))} if chance.random() < 0.2 else {}
    if path.endswith(("form", "videos", "edits", "extensions")) and chance.random() < 0.8:
        text = {name: str(value).encode("utf-8", "surrogatepass") for name, value in body.items()}
        answer = await service.client.post(path, files=text, headers=key)
    else:
        content = bytearray(json.dumps(body).encode())
        for _ in range(chance.choice((0, 0, 0, 1, 5))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        answer = await service.client.post(path, content=bytes(content), headers=key)
    # LightX2V's word for what is a 429 or a 409 elsewhere.
    is_its_word = path.startswith("/lightx2v") and answer.json().get("code") in ("queue_full", "task_exists")
    return 409 if is_its_word else answer.status_code


@pytest.mark.slow
async def test_no_request_is_answered_with_a_server_error(service: HttpService):
    await service.add_replica()
    chance = random.Random(20260131)
    seen: set[int] = set()
    for _ in range(40):
        seen |= set(await asyncio.gather(*(send(service, chance) for _ in range(20))))
        await service.client.delete("/v1/tasks/all/running")
    assert not {status for status in seen if status >= 500}
    assert {200, 404, 405, 409, 422} <= seen
    await service.submit()
