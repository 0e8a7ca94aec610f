"""The queue on the page: what is shown of it, and what a person does with it."""

import asyncio

import pytest
from playwright.async_api import Page, expect

from serve_app.tasks.command import Command
from serve_app.tasks.transitions import Status
from tests.web.conftest import Watched
from tests.web.web_service import WebService

pytestmark = pytest.mark.asyncio(loop_scope="session")

INTO_VIEW = """row => new Promise(resolve => {
    row.scrollIntoView({block: "nearest"});
    new IntersectionObserver(([title], observer) => {
        observer.disconnect();
        resolve(title.isIntersecting);
    }).observe(row.querySelector(".row-title"));
})"""
"""Scrolls to a row, and says whether its title is seen once the rows around it have taken their height."""


async def test_a_task_is_put_next_and_cancelled(page: Page, service: WebService):
    for name in ("one", "two", "three"):
        await service.http.submit(task_id=name, prompt=name)
    titles = page.locator("#queue .row-title")
    await expect(titles).to_have_text(["one", "two", "three"])
    await page.click("[data-task=three] [aria-label='Run this next']")
    await expect(titles).to_have_text(["three", "one", "two"])
    await page.click("[data-task=one] .tool-stop")
    await expect(page.locator("#queue .ended [data-task=one]")).to_contain_text("Cancelled")
    assert (await service.http.status("one"))["status"] == "cancelled"
    assert (await service.http.claim()).id == "three"


async def test_the_queue_is_paused_and_cleared(page: Page, service: WebService):
    await page.click("#queue >> text=Pause")
    await expect(page.locator("#queue .empty")).to_contain_text("paused")
    assert (await service.http.client.get("/v1/tasks/queue/status")).json()["paused"]
    for _ in range(3):
        await service.http.submit()
    await expect(page.locator("#queue .row")).to_have_count(3)
    await expect(page.locator("#queue .row-state").first).to_contain_text("paused")
    await page.click("#queue >> text=Clear")
    await page.click("dialog >> text=Cancel them")
    await expect(page.locator("#queue .summary")).to_have_text("paused")
    assert (await service.http.store.counts())[Status.CANCELLED] == 3
    await page.click("#queue >> text=Go on")
    await expect(page.locator("#queue .empty")).not_to_contain_text("paused")


async def test_a_failed_task_says_why_and_is_tried_again(page: Page, service: WebService, watched: Watched):
    why = "The video needs 61.3 GB of GPU memory, and 44.0 GB are there."
    await service.http.submit(prompt="too large", seed=3)
    await service.fail(await service.http.claim(), why)
    row = page.locator("#queue .ended .row")
    await expect(row).to_contain_text(why)
    await row.get_by_label("Try again").click()
    await expect(page.locator("#queue .rows:not(.ended) .row-title")).to_have_text("too large")
    assert (await service.http.claim()).spec.seed == 3
    await row.locator(".tool-stop").click()
    await expect(row).to_have_count(0)
    assert not watched.complaints


async def test_a_run_is_seen_while_it_goes_on_and_finished_early(page: Page, service: WebService):
    await service.http.submit()
    task = await service.http.claim()
    await service.step(task, 5)
    row = page.locator("#queue .row")
    await expect(row).to_contain_text("Step 6 of 20 on demo-1")
    service.preview(task)
    await expect(row.locator("img")).to_have_js_property("naturalWidth", 12)
    async with page.expect_response("**/finish_early"):
        await row.get_by_label("Finish now").click()
    assert await service.step(task, 6) & Command.FINISH


async def test_replicas_say_what_they_do(page: Page, service: WebService):
    await service.http.add_replica("vace-1", "vace", health="SETUP_FAILED", reason="No such folder.")
    failed = page.locator("#replicas [data-health=SETUP_FAILED]")
    await page.click("#queue >> text=Pause")  # which asks for the state at once
    await expect(failed).to_have_attribute("title", "vace-1: failed to load. No such folder.")


async def test_a_thousand_tasks_are_there_and_scroll(page: Page, service: WebService):
    await service.many(1000)
    await page.reload()
    rows = page.locator("#queue .rows:not(.ended) .row")
    await expect(rows).to_have_count(1000)
    await expect(page.locator("#queue .summary")).to_contain_text("1000 waiting")
    async with asyncio.timeout(30):  # rows take their height when they come near, which moves the others
        while not await rows.last.evaluate(INTO_VIEW):
            await asyncio.sleep(0.05)
    assert await page.evaluate("document.documentElement.scrollHeight") < 3000
