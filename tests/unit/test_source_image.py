"""The picture that a task keeps: its pixels, its file, and the part of it that a video shows."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.media.image_intake import ImageIntake
from serve_app.media.source_image import SourceImage, crop_note


def png(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 24), 50).convert("RGB").save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_png_brings_back_the_same_pixels_without_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    source = ImageIntake().from_bytes(png(exif=exif))
    stored = source.to_png()
    assert b"where I live" not in stored
    assert np.array_equal(SourceImage.from_png(stored).pixels, source.pixels)


def test_pixels_cannot_be_written_to() -> None:
    source = ImageIntake().from_bytes(png())
    with pytest.raises(ValueError, match="read-only"):
        source.pixels[0, 0, 0] = 1


@pytest.mark.parametrize("size", [(832, 480), (480, 832), (16, 16), (40, 24)])
@pytest.mark.parametrize("image", [(1000, 1000), (40, 24), (3, 2000), (2000, 1), (1, 1), (16_000, 1)])
def test_a_cover_crop_has_exactly_the_asked_size(image: tuple[int, int], size: tuple[int, int]) -> None:
    source = SourceImage(np.full((image[1], image[0], 3), 77, np.uint8))
    cropped = source.cover_crop(*size)
    assert cropped.shape == (size[1], size[0], 3)
    assert cropped.dtype == np.uint8
    assert (cropped == 77).all()


def test_a_cover_crop_keeps_the_centre_and_the_proportions() -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255  # the middle third is what a square crop keeps
    assert (SourceImage(pixels).cover_crop(96, 96)[:, 2:-2] > 250).all()
    assert (SourceImage(pixels.transpose(1, 0, 2).copy()).cover_crop(96, 96)[2:-2] > 250).all()


def test_the_note_says_what_was_cropped() -> None:
    assert crop_note((1000, 1000), (832, 480)) == "image 1000x1000 was centre-cropped to 832x480"
    assert SourceImage(np.zeros((10, 10, 3), np.uint8)).crop_note(32, 16) is not None


@pytest.mark.parametrize("image", [(832, 480), (1664, 960), (840, 480), (825, 480), (1, 1)])
def test_no_note_for_a_difference_of_one_percent(image: tuple[int, int]) -> None:
    target = (832, 480) if image != (1, 1) else (480, 480)
    assert crop_note(image, target) is None


@pytest.mark.parametrize("image", [(848, 480), (816, 480)])
def test_a_note_for_a_difference_of_two_percent(image: tuple[int, int]) -> None:
    assert crop_note(image, (832, 480)) is not None
