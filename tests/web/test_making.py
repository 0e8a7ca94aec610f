"""A video made on the page, from the prompt to the gallery."""

import pytest
from playwright.async_api import Page, expect

from tests.web.conftest import Watched
from tests.web.web_service import WebService

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_prompt_becomes_a_video_that_plays(page: Page, service: WebService, watched: Watched):
    await page.fill("#prompt", "a red ball moving left to right on a blue background")
    await page.click("#go")
    row = page.locator("#queue .row")
    await expect(row).to_contain_text("Number 1 in the queue")
    task = await service.http.claim()
    await service.step(task, 10)
    await expect(row).to_contain_text("Step 11 of 20")
    await service.finish(task)
    await page.click(".tile-open")
    video = page.locator(".viewer video")
    await expect(video).to_have_js_property("videoWidth", task.spec.width)
    assert f"#task={task.id}" in page.url
    assert not watched.complaints
