"""What can be done with a finished video on the page."""

import asyncio
import json
import shlex

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.http.http_service import as_text, png
from tests.web.conftest import opened
from tests.web.web_service import WebService

pytestmark = pytest.mark.asyncio(loop_scope="session")


NOTICES = """
    const root = () => document.documentElement.dataset;
    Object.defineProperty(document, "hidden", {get: () => root().hidden === "true"});
    window.Notification = class extends Notification {
        constructor(text, options) {
            super(text, options);
            root().notices = `${root().notices ?? ""}${text}: ${options.body}.`;
        }
    };
"""
"""Has the root element keep what the system's notices say, which no browser lists, and say whether the page
is looked at, which it always is without a window."""


async def act(page: Page, name: str) -> None:
    await page.click(f".viewer .action:text-is('{name}')")


async def test_its_settings_and_its_picture_fill_the_form(page: Page, service: WebService):
    await service.finished(
        prompt="a blue star", seed=77, infer_steps=8, image_path=as_text(png()), num_frames=9
    )
    await page.click(".tile-open")
    await act(page, "Same settings and seed")
    await expect(page.locator("#prompt")).to_have_value("a blue star")
    await expect(page.locator("#seed")).to_have_value("77")
    await expect(page.locator("input[name=preset][value=fast]")).to_be_checked()
    await expect(page.locator("[data-field=image_path] .full img")).to_have_js_property("naturalWidth", 96)
    await page.click("#go")
    await expect(page.locator("#queue .row")).to_have_count(1)
    spec = (await service.http.claim()).spec
    assert (spec.seed, spec.steps, spec.num_frames) == (77, 8, 9) and spec.image_key


async def test_it_is_made_again_with_a_new_seed(page: Page, service: WebService):
    await service.finished(prompt="a blue star", seed=77)
    await page.click(".tile-open")
    await act(page, "Again with a new seed")
    await expect(page.locator("#queue .row-title")).to_have_text("a blue star")
    assert (await service.http.claim()).spec.seed != 77


async def test_a_frame_of_it_begins_another_and_its_end_goes_on(page: Page, service: WebService):
    task = await service.finished(prompt="a blue star")
    await page.click(".tile-open")
    await expect(page.locator(".viewer video")).to_have_js_property("videoWidth", 160)
    await act(page, "Shown frame as first")
    await expect(page.locator("[data-field=image_path] .full img")).to_have_js_property("naturalWidth", 160)
    await page.click("[aria-label='Remove First frame']")
    await page.click(".tile-open")
    await act(page, "Go on from its end")
    await expect(page.locator("#continuing")).to_contain_text("a blue star")
    async with page.expect_request("**/v1/tasks/video") as sent:
        await page.click("#go")
    body = (await sent.value).post_data_json
    assert body is not None and body["continue_from"] == {"task_id": task.id}


async def test_two_of_them_play_in_step(page: Page, service: WebService):
    for name in ("one", "two", "three"):
        await service.finished(prompt=name)
    picks = page.locator(".tile-pick input")
    await expect(picks).to_have_count(3)
    await picks.nth(0).check()
    await picks.nth(1).check()
    comes = asyncio.Event()

    async def comes_late(route: Route) -> None:
        await comes.wait()
        await route.continue_()

    await page.route("**/result", comes_late)
    await page.click("text=Compare two")
    videos = page.locator(".compare video")
    await expect(videos).to_have_count(2)
    await page.fill("[aria-label='Place in both videos']", "0.5")
    comes.set()
    for video in await videos.all():
        await expect(video).to_have_js_property("paused", True)
        await expect(video).to_have_js_property("currentTime", 0.5)
    await page.click("[aria-label='Play both']")
    await expect(videos.first).to_have_js_property("paused", False)


async def test_it_is_deleted_here_and_in_another_tab(
    page: Page, context: BrowserContext, service: WebService
):
    task = await service.finished()
    other = await opened(context, service.url)
    await expect(other.locator(".tile")).to_have_count(1)
    await page.click(".tile-open")
    await act(page, "Delete")
    await page.click(".question >> text='Delete'")
    for tab in (page, other):
        await expect(tab.locator(".tile")).to_have_count(0)
    assert (await service.http.client.get(f"/v1/tasks/{task.id}/status")).status_code == 404


async def test_it_is_downloaded_and_its_request_copied(
    page: Page, context: BrowserContext, service: WebService
):
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    task = await service.finished(prompt='it\'s a "star"', seed=4)
    await page.click(".tile-open")
    async with page.expect_download() as download:
        await act(page, "Download")
    assert (await download.value).suggested_filename == f"{task.id}.mp4"
    await act(page, "Copy as curl")
    await expect(page.locator(".toast").last).to_have_text("Copied.")
    words = shlex.split(await page.evaluate("navigator.clipboard.readText()"))
    assert words[:2] == ["curl", "-X"] and f"{service.url}/v1/tasks/video" in words
    body = json.loads(words[words.index("-d") + 1])
    assert (body["prompt"], body["seed"]) == ('it\'s a "star"', 4)
    await act(page, "Copy as Python")
    async with asyncio.timeout(30):
        while "import httpx" not in (program := await page.evaluate("navigator.clipboard.readText()")):
            await asyncio.sleep(0.05)
    compile(program, "copied.py", "exec")
    assert f"base_url={json.dumps(service.url)}" in program


async def test_a_tile_plays_while_one_points_at_it(page: Page, service: WebService):
    await service.finished()
    await page.hover(".tile-open")
    await expect(page.locator(".tile video.playing")).to_have_js_property("loop", True)
    await page.hover("h1")
    await expect(page.locator(".tile video")).to_have_count(0)


async def test_its_end_is_told_by_the_system_while_nobody_looks_at_the_page(
    page: Page, context: BrowserContext, service: WebService
):
    await page.click("[aria-label='Tell me when a video is done']")
    await context.grant_permissions(["notifications"])
    await context.add_init_script(NOTICES)
    await page.reload()
    await expect(page.get_by_label("You are told when a video is done")).to_be_visible()
    for prompt in ("seen", "not seen"):
        await service.http.submit(prompt=prompt)
    await expect(page.locator("#queue .row")).to_have_count(2)
    await service.finish(await service.http.claim())
    await expect(page.locator(".toast").last).to_have_text("Done: seen")
    root = page.locator("html")
    await root.evaluate("root => root.dataset.hidden = true")
    await service.finish(await service.http.claim())
    await expect(root).to_have_attribute("data-notices", "Done: not seen.")
