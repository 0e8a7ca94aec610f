"""A page of another origin in a real browser: it changes nothing and reads nothing, whatever it sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import BrowserContext, Route

from tests.web.web_service import WebService

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOREIGN = "http://evil.example/"
ASKS = """async ([base, paths]) => {
  const told = [];
  const tries = [];
  const tell = (what) => (answer) => told.push(`${what}: ${answer.type} ${answer.status}`);
  for (const [method, path] of paths) {
    for (const mode of ["cors", "no-cors"]) {
      for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"]) {
        const body = method === "GET" ? undefined : '{"prompt": "evil", "task_id": "waits"}';
        const headers = body === undefined ? {} : { "Content-Type": type };
        const asked = fetch(base + path, { method, mode, body, headers });
        tries.push(asked.then(tell(`${mode} ${method} ${path}`), () => {}));
      }
    }
    const picture = new Image();
    picture.src = base + path;
    tries.push(picture.decode().then(() => told.push(`picture ${path}`), () => {}));
  }
  const form = new FormData();
  form.append("prompt", "evil");
  const sent = fetch(`${base}/v1/tasks/video/form`, { method: "POST", mode: "no-cors", body: form });
  tries.push(sent.then(() => {}, () => {}));
  await Promise.all(tries);
  return told.filter((line) => !line.includes("opaque"));
}"""


@asynccontextmanager
async def foreign_page(context: BrowserContext) -> AsyncIterator[None]:
    """Have the browser find a page at another site's address."""

    async def answer(route: Route) -> None:
        await route.fulfill(content_type="text/html", body="<form method=post><input name=prompt></form>")

    await context.route(f"{FOREIGN}**", answer)
    yield


async def test_it_changes_nothing_and_reads_nothing(context: BrowserContext, service: WebService):
    await service.http.submit(task_id="waits")
    done = await service.finished(task_id="done")
    assert done.id == "waits", "the older one is run first"
    paths = await changes(service)
    async with foreign_page(context):
        page = await context.new_page()
        await page.goto(FOREIGN)
        assert await page.evaluate(ASKS, [service.url, paths]) == []
        await page.evaluate(
            "(base) => { document.forms[0].action = base + '/v1/tasks/video/form' }", service.url
        )
        async with page.expect_response(f"{service.url}/**") as sent:
            await page.evaluate("document.forms[0].submit()")
        assert (await sent.value).status == 403
    tasks = (await service.http.client.get("/v1/tasks")).json()["tasks"]
    assert {task["task_id"]: task["status"] for task in tasks} == {"waits": "succeed", "done": "submitted"}


async def test_it_can_show_nothing_of_the_service(context: BrowserContext, service: WebService):
    task = await service.finished()
    async with foreign_page(context):
        page = await context.new_page()
        await page.goto(FOREIGN)
        frame = """(url) => new Promise((resolve) => {
            const frame = document.createElement("iframe");
            frame.src = url;
            frame.onload = resolve;
            document.body.append(frame);
        })"""
        await page.evaluate(frame, service.url)
        assert page.frames[1].url.startswith("chrome-error:")
        video = """(url) => new Promise((resolve) => {
            const video = document.createElement("video");
            video.onerror = () => resolve("refused");
            video.oncanplay = () => resolve("played");
            video.src = url;
        })"""
        assert await page.evaluate(video, f"{service.url}/v1/tasks/{task.id}/result") == "refused"


async def changes(service: WebService) -> list[tuple[str, str]]:
    """Return the method and path of every operation that changes something."""
    document = (await service.http.client.get("/openapi.json")).json()
    found = [
        (method.upper(), path.format(task_id="done", file_path="x"))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method not in ("get", "head") or "x-changes-tasks" in operation
    ]
    assert len(found) > 15
    return found
