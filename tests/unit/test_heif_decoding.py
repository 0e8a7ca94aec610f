"""AVIF and HEIC pictures are read upright, whole and in their colours, and hostile ones at no great cost."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from serve_app.errors import ImageUnreadable, TooLarge
from serve_app.media.image_decoding import decode

PICTURES = Path(__file__).with_name("pictures")
"""Two by pillow-heif 1.8.1 from ``quarters``: in tiles, with a thumbnail and turned; half transparent.
One by Pillow, of 8000x8000 pixels of one colour, with 40x24 put in its header.
"""
MAX_PIXELS = 16_800_000
writes_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")


def quarters() -> NDArray[np.uint8]:
    """Return 160x96 pixels, of another colour in each quarter."""
    picture = np.empty((96, 160, 3), np.uint8)
    picture[:48, :80], picture[:48, 80:] = (200, 40, 40), (40, 160, 40)
    picture[48:, :80], picture[48:, 80:] = (40, 60, 200), (220, 220, 60)
    return picture


def avif(picture: NDArray[np.uint8], orientation: int = 1, **options: Any) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(buffer, "AVIF", exif=exif, **options)
    return buffer.getvalue()


def see(data: bytes, expected: NDArray[np.uint8]) -> None:
    """Require the colours of ``expected``, but near edges, where the colour is stored at half the size."""
    pixels = decode(data, max_pixels=MAX_PIXELS).pixels
    assert pixels.shape == expected.shape
    inner = np.ones(pixels.shape[:2], bool)
    for edge in np.argwhere((np.diff(expected.astype(int), axis=0) != 0).any((1, 2))).ravel():
        inner[edge - 4 : edge + 5] = False
    for edge in np.argwhere((np.diff(expected.astype(int), axis=1) != 0).any((0, 2))).ravel():
        inner[:, edge - 4 : edge + 5] = False
    assert inner.mean() > 0.7
    assert np.abs(pixels[inner].astype(int) - expected[inner]).max() <= 8


def half_transparent() -> NDArray[np.uint8]:
    return np.dstack([quarters(), np.where(np.arange(160) < 80, 255, 0)[None].repeat(96, 0)]).astype(np.uint8)


def on_white() -> NDArray[np.uint8]:
    picture = quarters()
    picture[:, 80:] = 255
    return picture


@writes_avif
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 7])
def test_an_avif_picture_is_turned_upright(orientation: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(quarters()).save(buffer, "PNG", exif=exif)
    upright = decode(buffer.getvalue(), max_pixels=MAX_PIXELS).pixels
    see(avif(quarters(), orientation), upright)


@writes_avif
@pytest.mark.parametrize("options", [{"range": "limited"}, {"subsampling": "4:4:4"}], ids=str)
def test_an_avif_picture_has_its_colours_however_they_are_stored(options: dict[str, Any]) -> None:
    see(avif(quarters(), **options), quarters())


@writes_avif
def test_what_is_transparent_in_an_avif_picture_is_white() -> None:
    see(avif(half_transparent()), on_white())


@writes_avif
def test_the_first_frame_of_an_avif_animation_is_taken() -> None:
    others = [Image.fromarray(quarters()[::-1].copy())]
    see(avif(quarters(), save_all=True, append_images=others), quarters())


def test_the_tiles_of_a_heic_picture_are_put_together_and_turned() -> None:
    see((PICTURES / "tiles_turned.heic").read_bytes(), np.rot90(quarters(), -1))


def test_what_is_transparent_in_a_heic_picture_is_white() -> None:
    see((PICTURES / "transparent.heic").read_bytes(), on_white())


@writes_avif
def test_a_picture_that_says_it_is_too_large_is_not_decoded() -> None:
    with pytest.raises(TooLarge, match="more than 15359 pixels"):
        decode(avif(quarters()), max_pixels=160 * 96 - 1)


_MEASURE = """
import json, resource, sys
from serve_app.errors import ServiceError
from serve_app.media.image_decoding import decode
try:
    decode(open(sys.argv[1], "rb").read(), max_pixels=16_800_000)
except ServiceError as error:
    used_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([error.code, used_kb // 1024]))
"""


def test_a_picture_larger_than_it_says_is_refused_at_no_cost() -> None:
    file = PICTURES / "larger_than_it_says.avif"
    assert file.stat().st_size < 2000
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, file], capture_output=True, text=True, check=True, timeout=60
    )
    code, megabytes = json.loads(done.stdout)
    assert code == "image_unreadable"
    assert megabytes < 100, "it decodes nothing: 64 million pixels are 192 MB"


@pytest.mark.parametrize("name", ["tiles_turned.heic", "transparent.heic"])
def test_a_picture_that_is_cut_off_or_overwritten_is_refused(name: str) -> None:
    whole = (PICTURES / name).read_bytes()
    for length in (20, 60, len(whole) // 2):
        with pytest.raises(ImageUnreadable, match="AVIF or HEIC picture that is damaged"):
            decode(whole[:length], max_pixels=MAX_PIXELS)
    with pytest.raises(ImageUnreadable, match="AVIF or HEIC picture that is damaged"):
        decode(whole[:40] + bytes(len(whole) - 40), max_pixels=MAX_PIXELS)


def test_a_video_under_the_name_of_a_picture_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "color=red:s=64x32:d=0.1"]
    subprocess.run([*command, "-c:v", "libx264", file], check=True, timeout=60)
    video = file.read_bytes()
    assert video[8:12] == b"isom"
    with pytest.raises(ImageUnreadable, match="AVIF or HEIC"):
        decode(video[:8] + b"avif" + video[12:], max_pixels=MAX_PIXELS)
