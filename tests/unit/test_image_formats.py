"""A picture in a format that is not read is refused by that format's name, however it is sent."""

import base64
import io
import random
from typing import Any

import pytest
from PIL import Image

from serve_app.errors import ImageUnreadable
from serve_app.media.image_formats import is_heif, is_read, name_of
from serve_app.media.image_intake import ImageIntake


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 24), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def media_file(major: bytes, *compatible: bytes) -> bytes:
    """Return the beginning of an ISO base media file of these brands."""
    box = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (len(box) + 4).to_bytes(4) + box + bytes(64)


FORMATS: dict[str, tuple[bytes, str]] = {
    "gif": (encoded("GIF"), "a GIF picture"),
    "bmp": (encoded("BMP"), "a BMP picture"),
    "bmp-os2": (b"BM" + bytes(12) + (12).to_bytes(4, "little") + bytes(40), "a BMP picture"),
    "tiff": (encoded("TIFF"), "a TIFF picture"),
    "tiff-big-endian": (b"MM\0*\0\0\0\x08" + bytes(40), "a TIFF picture"),
    "jxl": (b"\xff\x0a" + bytes(4000), "a JPEG XL picture"),
    "jxl-boxed": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "a JPEG XL picture"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "a JPEG 2000 picture"),
    "psd": (b"8BPS\0\x01" + bytes(20), "a Photoshop file"),
    "pdf": (b"%PDF-1.7\n", "a PDF file"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "mp4": (media_file(b"isom", b"iso2", b"mp41"), "an MP4 or QuickTime file"),
    "mov": (media_file(b"qt  "), "an MP4 or QuickTime file"),
}


@pytest.mark.parametrize(("data", "name"), FORMATS.values(), ids=FORMATS)
async def test_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    sentence = f"The image is {name}; send JPEG, PNG, WebP, AVIF or HEIC."
    with pytest.raises(ImageUnreadable) as uploaded:
        ImageIntake().from_bytes(data)
    with pytest.raises(ImageUnreadable) as in_a_field:
        await ImageIntake().read(base64.b64encode(data).decode())
    assert (uploaded.value.detail, in_a_field.value.detail) == (sentence, sentence)


@pytest.mark.parametrize(
    "brands",
    [
        (b"heic", b"mif1", b"MiHE", b"MiPr", b"miaf"),
        (b"mif1", b"mif1", b"heic"),
        (b"msf1", b"hevc", b"msf1"),
        (b"mif1", b"miaf"),
        (b"mif1", b"avif", b"miaf"),
        (b"avis", b"avif", b"msf1"),
    ],
)
def test_a_picture_of_the_heif_family_is_known_by_any_of_its_brands(brands: tuple[bytes, ...]) -> None:
    assert is_heif(media_file(*brands))
    assert not is_heif(media_file(b"isom", b"iso2", b"mp41"))


@pytest.mark.parametrize("data", [b"hello, this is text", b"BMW makes cars, not pictures", b"\0", b"ftyp"])
def test_what_is_no_known_format_is_not_named(data: bytes) -> None:
    with pytest.raises(
        ImageUnreadable, match="is no picture of a known format; send JPEG, PNG, WebP, AVIF or HEIC"
    ):
        ImageIntake().from_bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_read_has_no_other_name(kind: str) -> None:
    data = encoded(kind)
    assert is_read(data) and name_of(data) is None


def test_random_brands_give_a_name() -> None:
    chance = random.Random(2)
    for _ in range(500):
        data = chance.randbytes(4) + b"ftyp" + chance.randbytes(chance.randint(0, 400))
        assert name_of(data) == "an MP4 or QuickTime file"
