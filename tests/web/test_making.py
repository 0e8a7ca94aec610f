"""Videos made on the page: from the form to the request that is stored, and to a video that plays."""

import pytest
from playwright.async_api import BrowserContext, FilePayload, Page, expect

from models.video_spec import LoraUse
from tests.http.http_service import png
from tests.web.conftest import Watched, opened
from tests.web.files import drop, paste
from tests.web.web_service import WebService, clip_with_settings

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "a red ball moving left to right on a blue background"


async def test_a_prompt_becomes_a_video_that_plays(page: Page, service: WebService, watched: Watched):
    await page.fill("#prompt", PROMPT)
    await page.click("#go")
    row = page.locator("#queue .row")
    await expect(row).to_contain_text("Number 1 in the queue")
    task = await service.http.claim()
    await service.step(task, 10)
    await expect(row).to_contain_text("Step 11 of 20")
    await expect(row.locator("progress")).to_have_attribute("value", "0.45")
    await service.finish(task)
    await page.click(".tile-open")
    video = page.locator(".viewer video")
    await expect(video).to_have_js_property("videoWidth", task.spec.width)
    assert f"#task={task.id}" in page.url
    assert not watched.complaints
    assert {url.split("/")[2] for url in watched.asked if url.startswith("http")} == {
        service.url.split("/")[2]
    }


async def test_what_is_chosen_is_what_is_asked_for(page: Page, service: WebService):
    await page.fill("#prompt", PROMPT)
    await page.check("input[name=preset][value=fast]")
    await page.check("input[name=ratio][value='9:16']")
    await page.fill("#seconds", "2")
    await page.fill("#seed", "7")
    await page.fill("#count", "2")
    await expect(page.locator("#go")).to_have_text("Make 2 videos")
    await page.click("#go")
    await expect(page.locator("#queue .row")).to_have_count(2)
    specs = [(await service.http.claim()).spec for _ in range(2)]
    assert {(spec.steps, spec.width, spec.height, spec.num_frames) for spec in specs} == {(8, 96, 160, 9)}
    assert [spec.seed for spec in specs] == [7, 8]


async def test_each_line_makes_a_video_and_a_refused_one_stays(page: Page, service: WebService):
    await page.check("#per-line")
    await page.fill("#prompt", f"a red ball\n\na blue star\n{'x' * 5000}")
    await page.click("#go")
    await expect(page.locator("#queue .row-title")).to_have_text(["a red ball", "a blue star"])
    await expect(page.locator("[data-field=prompt] .error")).to_contain_text("4096")
    await expect(page.locator("#prompt")).to_have_value("x" * 5000)


async def test_a_refusal_stands_at_its_field_and_goes_with_a_change(page: Page):
    await page.click("#go")
    error = page.locator("[data-field=prompt] .error")
    await expect(error).to_contain_text("Is required")
    await expect(error).to_be_visible()
    await expect(page.locator("#prompt")).to_be_focused()
    await expect(page.locator("#prompt")).to_have_attribute("aria-invalid", "true")
    await page.fill("#prompt", PROMPT)
    await expect(error).to_be_hidden()
    await page.click("#more summary")
    await page.fill("#more-infer_steps", "999")
    await page.click("#go")
    await expect(page.locator("[data-field=infer_steps] .error")).to_contain_text("from 1 to 200")


async def test_pictures_come_by_drop_by_paste_and_by_choice(page: Page, service: WebService):
    await page.select_option("#model", "vace")
    await drop(page, "[data-field=image_path]", "first.png", "image/png", png())
    await expect(page.locator("[data-field=image_path] .full img")).to_have_js_property("naturalWidth", 96)
    await paste(page, "last.png", "image/png", png(64, 48))
    await expect(page.locator("[data-field=last_frame_path] .full img")).to_be_visible()
    chosen: FilePayload = {"name": "subject.png", "mimeType": "image/png", "buffer": png(32, 32)}
    await page.set_input_files("[data-field=reference_images] input", chosen)
    await expect(page.locator("#size-out")).to_have_text("as the picture")
    await page.fill("#prompt", "a paper boat")
    await page.click("#go")
    await expect(page.locator("#queue .row-picture img")).to_have_js_property("naturalWidth", 96)
    spec = (await service.http.claim("vace")).spec
    assert spec.image_key and spec.last_image_key and len(spec.reference_keys) == 1


async def test_a_broken_picture_is_refused_at_its_place(page: Page):
    await drop(page, "[data-field=image_path]", "broken.png", "image/png", b"no picture")
    await page.click("#go")
    await expect(page.locator("[data-field=image_path] .error")).not_to_be_empty()


async def test_loras_of_two_experts_have_two_sliders(page: Page, service: WebService):
    await page.select_option("#model", "two")
    await page.select_option("#lora-add", "clay")
    await page.fill("input[aria-label='High noise of clay']", "0.5")
    await page.fill("input[aria-label='Low noise of clay']", "-1")
    await page.fill("#prompt", "a paper boat")
    await page.click("#go")
    await expect(page.locator("#queue .row")).to_have_count(1)
    assert (await service.http.claim("two")).spec.loras == (LoraUse("clay", 0.5, -1.0),)


async def test_the_form_has_what_the_model_takes(page: Page):
    await expect(page.locator("[data-field=last_frame_path]")).to_have_count(0)
    await expect(page.locator("#loras")).to_be_hidden()
    await page.select_option("#model", "two")
    await expect(page.locator("#pictures")).to_be_hidden()
    await expect(page.locator("#loras")).to_be_visible()
    await expect(page.locator("#presets-field")).to_be_visible()
    await page.select_option("#model", "four")  # which has one preset, and so nothing to choose
    await expect(page.locator("#presets-field")).to_be_hidden()
    await page.select_option("#model", "vace")
    await expect(page.locator("#pictures .slot-field")).to_have_count(5)


async def test_a_dropped_video_of_the_service_fills_the_form(page: Page, service: WebService):
    task = await service.finished(prompt='a "blue" {star}', seed=11, width=64, height=64, num_frames=9)
    await drop(page, "body", "made.mp4", "video/mp4", clip_with_settings(task))
    await expect(page.locator("#prompt")).to_have_value('a "blue" {star}')
    await expect(page.locator("#seed")).to_have_value("11")
    await expect(page.locator("#size-out")).to_have_text("64 × 64")
    await expect(page.locator("#seconds")).to_have_value("2")


async def test_the_form_is_kept_over_a_reload(page: Page, context: BrowserContext, service: WebService):
    await page.fill("#prompt", "not lost")
    await page.fill("#seed", "5")
    await page.reload()
    await expect(page.locator("#prompt")).to_have_value("not lost")
    await expect(page.locator("#seed")).to_have_value("5")
    other = await opened(context, service.url)
    await expect(other.locator("#prompt")).to_have_value("")
