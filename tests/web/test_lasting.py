"""The page over time: reloads, restarts of the service, several tabs, and API keys."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from serve_app.store.run_ledger import RunLedger
from tests.http.http_service import settings
from tests.web.conftest import Watched, opened
from tests.web.web_service import WebService, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_reload_in_mid_run_loses_nothing(page: Page, service: WebService):
    await service.finished(prompt="done")
    await service.http.submit(prompt="runs")
    task = await service.http.claim()
    await service.step(task, 10)
    await page.reload()
    await expect(page.locator(".tile-title")).to_have_text("done")
    await expect(page.locator("#queue .row")).to_contain_text("Step 11 of 20")
    await service.finish(task)
    await expect(page.locator(".tile-title")).to_have_text(["runs", "done"])


async def test_an_address_with_a_task_opens_it(page: Page, context: BrowserContext, service: WebService):
    task = await service.finished(prompt="a blue star")
    tab = await opened(context, f"{service.url}/#task={task.id}")
    await expect(tab.locator(".viewer-title")).to_have_text("a blue star")
    await tab.keyboard.press("Escape")
    await expect(tab.locator(".viewer")).to_have_count(0)
    assert "#" not in tab.url


async def test_the_page_goes_on_when_the_service_comes_back(
    context: BrowserContext, folder: Path, models: list[dict[str, Any]]
):
    async with serving(settings(folder, models=models)) as before:
        page = await opened(context, before.url)
        await before.http.submit(prompt="runs", task_id="runs")
        uid = (await before.http.claim()).uid
        await expect(page.locator("#queue .row")).to_have_attribute("data-status", "running")
    await expect(page.locator("#connection")).to_contain_text("No connection")
    await page.fill("#prompt", "made meanwhile")
    await page.click("#go")
    await expect(page.locator("#go")).to_have_text("Sending…")
    async with serving(settings(folder, models=models), before.port) as after:
        await expect(page.locator("#connection")).to_be_empty()
        await expect(page.locator("#queue .row-title")).to_have_text(["runs", "made meanwhile"])
        task = await after.http.ledger.find(uid)
        assert task is not None
        await after.finish(task)
        await expect(page.locator(".tile-title")).to_have_text("runs")
        queued = (await after.http.client.get("/v1/tasks?status=submitted")).json()["tasks"]
        assert [task["prompt"] for task in queued] == ["made meanwhile"]


async def test_two_tabs_show_the_same(page: Page, context: BrowserContext, service: WebService):
    other = await opened(context, service.url)
    await page.fill("#prompt", "of the first tab")
    await page.click("#go")
    await expect(other.locator("#queue .row-title")).to_have_text("of the first tab")
    await other.click("#queue .tool-stop")
    await expect(page.locator("#queue .ended .row")).to_contain_text("Cancelled")


async def test_a_key_is_asked_for_once_and_kept_in_the_tab(
    context: BrowserContext, folder: Path, watched: Watched
):
    keys = [{"name": "alice", "sha256": hashlib.sha256(b"secret").hexdigest()}]
    async with serving(settings(folder, keys=keys)) as service:
        await service.http.submit(key="secret", prompt="hers")
        await service.finish(await service.http.claim())
        page = await context.new_page()
        watched.watch(page)
        await page.goto(service.url)
        await page.fill("#key", "wrong")
        await page.click(".login >> text=Go on")
        await expect(page.locator(".login .error")).to_contain_text("does not know this key")
        await page.fill("#key", "secret")
        await page.click(".login >> text=Go on")
        await expect(page.locator(".tile-title")).to_have_text("hers")
        await expect(page.locator(".tile img")).to_have_js_property("complete", True)
        assert [text for text in watched.complaints if "401" not in text] == []
        await page.reload()
        await page.click(".tile-open")
        await expect(page.locator(".viewer video")).to_have_js_property("videoWidth", 160)
        assert all("secret" not in url for url in watched.asked)
        await page.keyboard.press("Escape")
        await page.click("[aria-label='Forget the key']")
        await expect(page.locator("#key")).to_be_visible()


async def test_a_run_of_a_lost_replica_waits_again(page: Page, service: WebService):
    await service.http.submit(prompt="unlucky")
    task = await service.http.claim()
    await service.step(task, 5)
    row = page.locator("#queue .row")
    await expect(row).to_have_attribute("data-status", "running")
    ledger: RunLedger = service.http.ledger
    await ledger.give_up(task.uid, task.attempt)
    await expect(row).to_have_attribute("data-status", "submitted")
    await expect(row.locator("progress")).to_be_hidden()
