"""The page for every eye and hand: keyboard, small screens, colours, calm, and hostile text."""

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.web.conftest import Watched, opened
from tests.web.web_service import WebService

pytestmark = pytest.mark.asyncio(loop_scope="session")

MOST_BYTES = 150_000
HOSTILE = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'>",
    "\"><svg onload='window.hurt = 1'>",
    "'; window.hurt = 1; '",
    "javascript:window.hurt=1",
    "{{constructor.constructor('window.hurt = 1')()}}",
    "</textarea><iframe srcdoc='<script>parent.hurt = 1</script>'>",
    "\u202eevil\u202c \x1b[31m",
]
"""Texts that would do something where they are taken for markup or code."""


async def busy(service: WebService) -> None:
    """Give the page something of everything to show."""
    await service.finished(prompt="a blue star", width=64, height=96)
    await service.finished(prompt="a very long prompt " * 40)
    await service.http.submit(prompt="fails")
    await service.fail(await service.http.claim(), "Out of memory.")
    await service.http.submit(prompt="runs")
    await service.step(await service.http.claim(), 3)
    await service.http.submit(prompt="waits")


async def serious(page: Page) -> list[str]:
    """Return what axe finds that keeps somebody out."""
    found = await Axe().run(page)
    bad = [entry for entry in found.response["violations"] if entry["impact"] in ("serious", "critical")]
    return [f"{entry['id']}: {node['html'][:120]}" for entry in bad for node in entry["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_keeps_anybody_out(browser: Browser, service: WebService, scheme: Any):
    await busy(service)
    context = await browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = await opened(context, service.url)
    await page.select_option("#model", "two")
    await page.select_option("#lora-add", "clay")
    await page.click("#more summary")
    await expect(page.locator(".tile")).to_have_count(2)
    assert await serious(page) == []
    await page.click(".tile-open >> nth=0")
    await expect(page.locator(".viewer video")).to_have_js_property("readyState", 4)
    assert await serious(page) == []
    dark = "rgb(19, 19, 22)"
    colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == dark) is (scheme == "dark")
    await context.close()


async def test_hands_need_no_mouse(page: Page, service: WebService):
    await page.focus("#prompt")
    await page.keyboard.type("a red ball")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#queue .row")).to_have_count(1)
    await service.finish(await service.http.claim())
    await expect(page.locator(".tile")).to_have_count(1)
    await page.focus("#go")
    for _ in range(8):
        if await page.evaluate("document.activeElement.classList.contains('tile-open')"):
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator(".viewer")).to_be_visible()
    inside = "document.querySelector('.viewer').contains(document.activeElement)"
    assert await page.evaluate(inside)
    await page.keyboard.press("Escape")
    await expect(page.locator(".viewer")).to_have_count(0)


async def test_a_telephone_shows_all_of_it(browser: Browser, service: WebService):
    await busy(service)
    context = await browser.new_context(
        viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
    )
    page = await opened(context, service.url)
    for model in ("vace", "two", "demo"):
        await page.select_option("#model", model)
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
    await page.click("#queue-link")
    await expect(page.locator("#queue h2")).to_be_in_viewport()
    await page.click(".tile-open >> nth=1")
    await expect(page.locator(".viewer .doings")).to_be_attached()
    assert await page.evaluate("document.querySelector('.viewer').scrollWidth") <= 390
    await context.close()


async def test_nothing_moves_for_who_wants_calm(browser: Browser, service: WebService):
    await service.finished()
    context = await browser.new_context(reduced_motion="reduce")
    page = await opened(context, service.url)
    await page.hover(".tile-open")
    await page.focus(".tile-open")
    assert await page.locator(".tile video").count() == 0
    await page.click(".tile-open")
    await expect(page.locator(".viewer video")).to_have_js_property("readyState", 4)
    assert await page.evaluate("document.querySelector('.viewer video').paused")
    moving = "document.getAnimations().length + [...document.querySelectorAll('*')]"
    moving += ".filter((node) => parseFloat(getComputedStyle(node).transitionDuration) > 0).length"
    assert await page.evaluate(moving) == 0
    await context.close()


async def test_the_page_is_small_and_from_here_alone(
    context: BrowserContext, service: WebService, watched: Watched
):
    page = await context.new_page()
    watched.watch(page)
    await page.goto(service.url)
    await page.wait_for_selector("#model option", state="attached")
    files = [url for url in watched.asked if "/v1/" not in url]
    assert all(url.startswith(service.url) for url in watched.asked) and len(files) < 45
    whole = [await service.http.client.get(url.removeprefix(service.url) or "/") for url in files]
    assert sum(len(answer.content) for answer in whole) < MOST_BYTES
    assert not watched.complaints


async def test_hostile_text_stays_text(page: Page, service: WebService, watched: Watched):
    text = "\n".join(HOSTILE)
    await service.finished(prompt=text)
    await service.http.submit(prompt=text)
    await service.fail(await service.http.claim(), text)
    await service.http.submit(prompt=text)
    await service.step(await service.http.claim(), 2)
    for place in (".tile-title", ".ended .row-title", ".ended .row-state", "#queue .row-title >> nth=0"):
        await expect(page.locator(place)).to_contain_text(HOSTILE[0])
        assert HOSTILE[-1] in (await page.locator(place).text_content() or "")
    await page.click(".tile-open")
    assert await page.locator(".viewer-title").text_content() == text
    await page.click(".viewer .action:text-is('Same settings')")
    await expect(page.locator("#prompt")).to_have_value(text)
    assert await page.evaluate("window.hurt") is None
    assert not watched.complaints
