"""Pictures of the page for the docs: ``python -m tests.web.screenshots FOLDER``.

The service is the real one over a store of its own; its clips are made by the demo model, here and now.
"""

import asyncio
import io
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from models.demo.exam import settings_of
from models.engine import Engine, Frames, GenerationRequest
from models.generate import generate
from models.loading import load_engine
from models.variants import VARIANTS
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_writer import VideoWriter
from serve_app.tasks.replica import Replica
from serve_app.tasks.task import Task
from tests.http.http_service import settings
from tests.web.web_service import WebService, chromium, serving

_DEMO = VARIANTS["demo-distill"]
_QUALITY = 82
_DESKTOP = {"viewport": {"width": 1360, "height": 850}}
_PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
_WIDE, _HIGH, _SQUARE = (_DEMO.width, _DEMO.height), (_DEMO.height, _DEMO.width), (96, 96)
_MADE = (
    ("a red ball moving left to right on a blue background", _WIDE),
    ("a yellow star falling on a black background", _WIDE),
    ("a purple triangle falling on a gray background", _WIDE),
    ("a green square moving left to right on a white background", _WIDE),
    ("an orange ball bouncing on a black background", _SQUARE),
    ("a blue triangle moving right to left on a white background", _WIDE),
    ("a red star moving right to left on a gray background", _WIDE),
    ("a yellow ball falling on a blue background", _HIGH),
    ("a yellow star moving left to right on a blue background", _WIDE),
    ("a purple triangle growing on a white background", _WIDE),
)
_WAITS = (
    ("wan2.2", "A paper boat drifts down a rain-filled gutter at dusk, street lamps mirrored in the water"),
    ("demo", "a green star falling on a black background"),
    ("demo", "a blue square bouncing on a white background"),
    ("wan2.2", "A glassblower turns a glowing vase in a dark workshop, sparks drift through the air"),
)
_TOO_LARGE = "The video needs about 61.3 GiB of GPU memory, and 44.0 GiB are there: ask for fewer frames."


def _frames(engine: Engine, task: Task) -> Frames:
    """Have the demo model make a task's video."""
    spec = task.spec
    request = GenerationRequest(
        prompt=spec.prompt,
        negative_prompt="",
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
        fps=spec.fps,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        guidance_scale_2=None,
        flow_shift=spec.flow_shift,
        seed=spec.seed,
    )
    frames: Frames = np.concatenate(list(generate(engine, request)))
    return frames


def _file(frames: Frames, fps: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        height, width = frames.shape[1:3]
        with VideoWriter(path, width=width, height=height, fps=fps, encoding=VideoEncoding()) as writer:
            writer.write(frames)
        return path.read_bytes()


async def _made(service: WebService, engine: Engine) -> None:
    """Have the videos of the gallery made, in turn."""
    for seed, (prompt, (width, height)) in enumerate(_MADE[::-1]):
        await service.http.submit(prompt=prompt, width=width, height=height, seed=seed, model="demo")
        task = await service.http.claim()
        await service.http.publish(task, _file(_frames(engine, task), task.spec.fps))


async def _queued(service: WebService, engine: Engine) -> None:
    """Have one video run on each model, others wait, and one be too large."""
    await service.http.add_replica("demo-1")
    await service.http.fleet.saw(Replica("wan-1", "wan2.2", "cuda", 4, seen_at=4e9))
    await service.http.submit(prompt=_WAITS[0][1], model="wan2.2", width=1280, height=720)
    await service.fail(await service.http.claim("wan2.2"), _TOO_LARGE)
    await service.http.submit(prompt=_MADE[1][0], model="demo", seed=1)
    task = await service.http.claim()
    await service.step(task, 2)
    _show(service, task, _frames(engine, task)[4])
    await service.http.submit(prompt=_WAITS[3][1], model="wan2.2")
    await service.step(await service.http.claim("wan2.2"), 13)
    for model, prompt in _WAITS:
        await service.http.submit(prompt=prompt, model=model)


def _show(service: WebService, task: Task, frame: Frames) -> None:
    picture = io.BytesIO()
    Image.fromarray(frame).save(picture, "WEBP")
    service.http.artifacts.put_preview(task.uid, task.attempt, still=picture.getvalue(), strip=b"")


@asynccontextmanager
async def _page(browser: Browser, service: WebService, shape: Mapping[str, Any]) -> AsyncIterator[Page]:
    context = await browser.new_context(**shape)
    page = await context.new_page()
    await page.goto(service.url)
    await page.wait_for_selector("#model option", state="attached")
    await page.wait_for_function(
        "() => [...document.images].every((image) => image.complete || image.loading === 'lazy')"
    )
    yield page
    await context.close()


async def _shoot(page: Page, file: Path) -> None:
    await page.evaluate("document.fonts.ready")
    picture = Image.open(io.BytesIO(await page.screenshot()))
    picture.convert("RGB").save(file, "WEBP", quality=_QUALITY, method=6)
    print(f"{file}: {file.stat().st_size} bytes")


async def _all(browser: Browser, service: WebService, engine: Engine, folder: Path) -> None:
    async with _page(browser, service, _DESKTOP) as page:
        await page.wait_for_selector(".empty.big")
        await _shoot(page, folder / "page-empty.webp")
    await service.http.add_replica("demo-1")
    await _made(service, engine)
    async with _page(browser, service, _DESKTOP) as page:
        await page.wait_for_selector(f".tile >> nth={len(_MADE) - 1}")
        await page.wait_for_function(
            "() => [...document.querySelectorAll('.tile img')].every((image) => image.naturalWidth)"
        )
        await _shoot(page, folder / "page-light.webp")
    async with _page(browser, service, {**_DESKTOP, "color_scheme": "dark"}) as page:
        await page.click(".tile-open >> nth=1")
        await page.wait_for_function("() => document.querySelector('.viewer video').readyState === 4")
        await _shoot(page, folder / "page-dark.webp")
    await _queued(service, engine)
    async with _page(browser, service, _DESKTOP) as page:
        await page.wait_for_selector("#queue .row img[data-is-preview]")
        await page.wait_for_selector("#replicas li >> nth=1")
        await _shoot(page, folder / "page-queue.webp")
    async with _page(browser, service, {**_DESKTOP, "color_scheme": "dark"}) as page:
        await page.fill("#prompt", _WAITS[0][1])
        await page.select_option("#model", "wan2.2")
        await page.click("#more summary")
        await page.fill("#more-negative_prompt", "blurry, still")
        await page.fill("#more-infer_steps", "500")
        await page.click("#go")
        await page.wait_for_selector("[data-field=infer_steps] .error:not([hidden])")
        await _shoot(page, folder / "page-error.webp")
    async with _page(browser, service, _PHONE) as page:
        await page.click("#queue-link")
        await page.wait_for_selector("#queue .row img[data-is-preview]")
        await _shoot(page, folder / "page-phone.webp")


async def main(folder: Path) -> None:
    """Take the pictures."""
    engine = load_engine(settings_of(_DEMO))
    data = Path(tempfile.mkdtemp())
    models = [
        {"name": "demo", "variant": _DEMO.name, "weights": data},
        {"name": "wan2.2", "variant": "wan2.2-t2v-a14b", "weights": data},
    ]
    async with serving(settings(data, models=models)) as service, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        await _all(browser, service, engine, folder)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
