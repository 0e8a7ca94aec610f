"""The preview of a running task, over HTTP."""

import pytest

from serve_app.tasks.command import Command
from serve_app.tasks.task import Task
from tests.contract.tasks import at
from tests.http.http_service import HttpService


async def command(service: HttpService, task: Task) -> Command:
    return await service.ledger.report(task.uid, task.attempt, at(1, 0.1))


async def test_looking_at_a_running_task_asks_for_previews_and_gets_the_newest(service: HttpService):
    task_id = (await service.submit())["task_id"]
    path = f"/v1/tasks/{task_id}/preview"
    waiting = await service.client.get(path)
    assert (waiting.status_code, waiting.json()["code"]) == (404, "no_preview")
    task = await service.claim()
    assert Command.SHOW not in await command(service, task)
    assert (await service.client.get(path)).json()["code"] == "no_preview"
    assert Command.SHOW in await command(service, task)
    for picture in (b"first", b"second"):
        service.artifacts.put_preview(task.uid, task.attempt, still=picture, strip=picture + b" strip")
        shown = await service.client.get(path)
        assert (shown.content, shown.headers["content-type"]) == (picture, "image/webp")
        assert (await service.client.get(f"{path}?form=strip")).content == picture + b" strip"
    known = {"If-None-Match": shown.headers["etag"]}
    again = await service.client.get(path, headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", shown.headers["etag"])
    service.artifacts.put_preview(task.uid, task.attempt, still=b"third", strip=b"")
    assert (await service.client.get(path, headers=known)).content == b"third"


async def test_an_attempt_does_not_show_the_preview_of_the_one_before(service: HttpService):
    task_id = (await service.submit())["task_id"]
    task = await service.claim()
    service.artifacts.put_preview(task.uid, task.attempt, still=b"old", strip=b"old")
    await service.ledger.give_up(task.uid, task.attempt)
    await service.claim()
    assert (await service.client.get(f"/v1/tasks/{task_id}/preview")).status_code == 404


@pytest.mark.parametrize("form", ["", "png", "../still"])
async def test_another_form_is_refused(service: HttpService, form: str):
    task_id = await service.finished()
    refused = await service.client.get(f"/v1/tasks/{task_id}/preview", params={"form": form})
    assert (refused.status_code, refused.json()["field"]) == (422, "form")
