"""A browser for the session, a service and a page for each test.

All of them live on one event loop, the session's.
"""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from models.variants import VARIANTS
from tests.http.http_service import settings
from tests.http.lora_file import save
from tests.needed import needed
from tests.web.web_service import WebService, chromium, serving

PATIENCE_MS = 30_000
"""How long is waited for what is to appear; a machine under load is slow."""

QUERY = "diffusion_model.blocks.0.self_attn.q"
WIDTH = VARIANTS["wan2.2-t2v-a14b"].dim

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Watched:
    """What pages complained of and asked for, in one test."""

    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self._heard(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, without a window."""
    path = needed(chromium(), "Chromium", "Debian's package chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@pytest.fixture
def folder(tmp_path: Path, migrated: Path) -> Path:
    """A service's folder, its database already made."""
    (tmp_path / "data").mkdir()
    shutil.copy(migrated, tmp_path / "data" / "tasks.db")
    return tmp_path


@pytest.fixture
def models(folder: Path) -> list[dict[str, Any]]:
    """Settings of the demo model, of one that takes all inputs, of one with two experts and two LoRAs, and of
    one with steps of its own alone.
    """
    for name in ("anime", "clay"):
        save(folder / "loras" / f"{name}.safetensors", {f"{QUERY}.diff_b": (WIDTH,)})
    two = {"variant": "wan2.2-t2v-a14b", "lora_folder": str(folder / "loras")}
    found = [{"variant": "demo"}, {"name": "vace", "variant": "wan2.1-vace-14b"}, {"name": "two", **two}]
    found.append({"name": "four", "variant": "demo-distill"})
    return [{"name": "demo", "weights": folder, **model} for model in found]


@pytest_asyncio.fixture(loop_scope="session")
async def service(folder: Path, models: list[dict[str, Any]]) -> AsyncIterator[WebService]:
    """The service with these models, on a port."""
    async with serving(settings(folder, models=models)) as service:
        await service.http.add_replica()
        yield service


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    await context.close()


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, service: WebService, watched: Watched) -> Page:
    """The page, ready to be used."""
    return await opened(context, service.url, watched)


async def opened(context: BrowserContext, url: str, watched: Watched | None = None) -> Page:
    """Return the page at an address, ready to be used."""
    page = await context.new_page()
    if watched is not None:
        watched.watch(page)
    await page.goto(url)
    await page.wait_for_selector("#model option", state="attached")
    return page
