"""A new surface is one folder and one name in a list: keys, refusals and the document come with it."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from serve_app.api.application import SURFACES
from tests.contract.tasks import at
from tests.http.http_service import HttpService, as_text, png, running, settings, with_key
from tests.http.toy_surface import toy_surface

WITH_TOY = (*SURFACES, toy_surface)


@pytest_asyncio.fixture
async def service(folder: Path) -> AsyncIterator[HttpService]:
    """The service with the toy surface mounted."""
    async with running(settings(folder), surfaces=WITH_TOY) as service:
        yield service


async def make(service: HttpService, **fields: Any) -> str:
    response = await service.client.post("/toy/videos", json={"text": "a cat", **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def test_the_toy_surface_submits_and_polls_a_task_that_the_other_surfaces_see(service: HttpService):
    task_id = await make(service, seconds=1, canvas="64x32")
    native = await service.status(task_id)
    assert (native["num_frames"], native["width"], native["height"]) == (9, 64, 32)
    task = await service.claim()
    await service.ledger.report(task.uid, task.attempt, at(1, 0.25))
    path = f"/toy/videos/{task_id}"
    assert (await service.client.get(path)).json() == {"id": task_id, "state": "running", "percent": 25}
    await service.publish(task)
    assert (await service.client.get(f"{path}/")).json()["state"] == "succeeded"


async def test_the_toy_surface_cancels_a_task(service: HttpService):
    path = f"/toy/videos/{await make(service)}"
    assert (await service.client.delete(path)).json() == {"stopped": True}
    assert (await service.client.delete(path)).json() == {"stopped": False}
    assert (await service.client.delete("/toy/videos/unknown")).json()["code"] == "task_not_found"


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"text": " "}, 422, "text"),
        ({"seconds": "long"}, 422, "seconds"),
        ({"seconds": 60}, 422, "seconds"),
        ({"canvas": "huge"}, 422, "canvas"),
        ({"canvas": "4096x4096"}, 422, "canvas"),
        ({"start": as_text(png())}, 422, "start"),
    ],
)
async def test_the_toy_surface_refuses_in_its_own_words(
    folder: Path, fields: dict[str, Any], status: int, word: str
):
    models = [{"name": "text", "variant": "wan2.1-t2v-1.3b", "weights": folder}]
    async with running(settings(folder, models=models), surfaces=WITH_TOY) as service:
        response = await service.client.post("/toy/videos", json={"text": "a cat", **fields})
        assert response.status_code == status, response.text
        assert response.json()["field"] == word
        assert response.json()["detail"].startswith(f"{word}: ")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("ftp://example.com/cat.png", "start is a URL"),
        ("!!!!", "start is neither"),
        ("/x.png", "start is a path"),
    ],
)
async def test_a_picture_is_refused_in_its_own_words(service: HttpService, picture: str, said: str):
    response = await service.client.post("/toy/videos", json={"text": "a cat", "start": picture})
    assert response.status_code in (400, 403, 422)
    assert response.json()["detail"].startswith(said)


async def test_the_toy_surface_is_documented_and_needs_a_key(folder: Path):
    keys = [{"name": "alice", "sha256": hashlib.sha256(b"hers").hexdigest()}]
    async with running(settings(folder, keys=keys), surfaces=WITH_TOY) as service:
        assert (await service.client.post("/toy/videos", json={"text": "a cat"})).status_code == 401
        made = await service.client.post("/toy/videos", json={"text": "a cat"}, headers=with_key("hers"))
        assert (await service.client.get(f"/toy/videos/{made.json()['id']}")).status_code == 401
        document = (await service.client.get("/openapi.json")).json()
        assert "401" in document["paths"]["/toy/videos"]["post"]["responses"]
