"""Pictures are decoded in threads of their own: one large one at a time, and small ones beside it."""

import asyncio
import io
import threading

import numpy as np
import pytest
from PIL import Image

from serve_app.media import image_decoding
from serve_app.media.image_intake import ImageIntake
from serve_app.media.kept_picture import KeptPicture
from serve_app.media.picture_pool import LARGE_PIXELS, in_picture_pool
from serve_app.media.source_image import SourceImage


@pytest.mark.asyncio
async def test_small_pictures_pass_large_ones_of_which_one_is_decoded_at_a_time() -> None:
    begun, go_on, second = threading.Event(), threading.Event(), threading.Event()

    def first() -> bool:
        begun.set()
        return go_on.wait(30)

    large = [asyncio.create_task(in_picture_pool(LARGE_PIXELS + 1, work)) for work in (first, second.set)]
    assert await asyncio.to_thread(begun.wait, 30)
    assert await in_picture_pool(LARGE_PIXELS, lambda: "small") == "small"
    assert not second.is_set()
    go_on.set()
    assert (await asyncio.gather(*large))[0]
    assert second.is_set()


def test_a_picture_becomes_rgb_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    strips: list[tuple[int, int]] = []
    to_rgb = image_decoding.to_rgb

    def noted(image: Image.Image) -> Image.Image:
        strips.append(image.size)
        return to_rgb(image)

    monkeypatch.setattr(image_decoding, "to_rgb", noted)
    monkeypatch.setattr(image_decoding, "_STRIP_PIXELS", 7 * 40)
    rows = np.arange(20 * 40 * 4, dtype=np.uint8).reshape(20, 40, 4)
    image = Image.fromarray(rows)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    found = image_decoding.decode(buffer.getvalue(), max_pixels=800).pixels
    assert strips == [(40, 7), (40, 7), (40, 6)]
    assert np.array_equal(found, np.asarray(to_rgb(image)))


@pytest.mark.asyncio
async def test_a_kept_picture_is_the_png_of_what_was_sent() -> None:
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    sent = SourceImage(pixels).to_png()
    kept = await ImageIntake().kept(sent, "image_path")
    assert (kept.width, kept.height) == (8, 6)
    assert np.array_equal(SourceImage.from_png(kept.png).pixels, pixels)
    assert KeptPicture.from_png(kept.png) == kept
    with pytest.raises(OSError):
        KeptPicture.from_png(b"no picture")
