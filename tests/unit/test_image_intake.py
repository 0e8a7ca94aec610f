"""Images that the service takes; any other bytes are refused."""

import base64
import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ImageUnreadable, InvalidField, PathForbidden, ServiceError, TooLarge
from serve_app.media.image_intake import ImageIntake


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Return a picture that differs in every orientation: red left, blue right, a green top row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (255, 0, 0)
    pixels[:, width // 2 :] = (0, 0, 255)
    pixels[: height // 4] = (0, 255, 0)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "inputs"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "cat.png").write_bytes(encoded(picture()))
    (root / "plain").write_bytes(encoded(picture()))
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    return root


@pytest.fixture
def intake(root: Path) -> ImageIntake:
    return ImageIntake(input_roots=(root,))


# --- what is accepted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_format_is_known_by_its_content(kind: str) -> None:
    options: dict[str, Any] = {} if kind == "PNG" else {"quality": 95}
    source = ImageIntake().from_bytes(encoded(picture(), kind, **options))
    assert (source.width, source.height) == (40, 24)
    assert np.abs(source.pixels.astype(int) - np.asarray(picture())).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    # How the tag is defined: where the stored row 0 and column 0 are to be shown.
    turns: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    upright = np.asarray(picture(64, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 95} if kind == "JPEG" else {"lossless": True}
    data = encoded(
        Image.fromarray(np.ascontiguousarray(turns[orientation](upright))), kind, exif=exif, **options
    )
    shown = ImageIntake().from_bytes(data).pixels
    assert shown.shape == upright.shape
    assert np.abs(shown.astype(int) - upright).mean() < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"MM\0*\xff\xff\xff\xff" + bytes(40), b"MM\0*\0\0", b"XX*\0none"])
def test_broken_exif_does_not_cost_the_picture(kind: str, exif: bytes) -> None:
    data = encoded(picture(), kind, exif=b"Exif\0\0" + exif)
    assert ImageIntake().from_bytes(data).width == 40


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 0, 8, 8))
    source = ImageIntake().from_bytes(encoded(image.convert(mode)))
    assert source.pixels[:, :4].min() == 255
    assert source.pixels[:, 4:].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (4, 0, 8, 8))
    key = (0, 0, 0) if mode == "RGB" else 0
    source = ImageIntake().from_bytes(encoded(image.convert(mode), transparency=key))
    assert source.pixels.min() == 255


def test_sixteen_bit_gray_keeps_its_tones() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(4, axis=0)
    source = ImageIntake().from_bytes(encoded(Image.fromarray(ramp)))
    assert np.array_equal(source.pixels[0, :, 0], np.arange(256))


def test_cmyk_becomes_rgb() -> None:
    source = ImageIntake().from_bytes(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(source.pixels[12, 5].astype(int) - (255, 0, 0)).max() < 40


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert ImageIntake().from_bytes(data).pixels[0, 0].tolist() == [255, 0, 0]


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n%binary\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"hello, this is text",
        encoded(picture(), "GIF"),
        encoded(picture(), "BMP"),
        encoded(picture(), "TIFF"),
    ],
    ids=["pdf", "svg", "text", "gif", "bmp", "tiff"],
)
def test_other_formats_are_refused_naming_the_right_ones(data: bytes) -> None:
    with pytest.raises(ImageUnreadable, match="JPEG, PNG, WebP, AVIF or HEIC"):
        ImageIntake().from_bytes(data)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(ImageUnreadable, match="empty"):
        ImageIntake().from_bytes(b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_off_file_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageUnreadable):
        ImageIntake().from_bytes(data[: int(len(data) * share)])


def test_too_many_bytes_are_refused_and_the_limit_itself_is_not() -> None:
    data = encoded(picture())
    assert ImageIntake(max_image_bytes=len(data)).from_bytes(data).width == 40
    with pytest.raises(TooLarge):
        ImageIntake(max_image_bytes=len(data) - 1).from_bytes(data)


def test_too_many_pixels_are_refused_and_the_limit_itself_is_not() -> None:
    data = encoded(picture())
    assert ImageIntake(max_image_pixels=40 * 24).from_bytes(data).width == 40
    with pytest.raises(TooLarge):
        ImageIntake(max_image_pixels=40 * 24 - 1).from_bytes(data)


@pytest.mark.parametrize("size", [(4100, 4100), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_the_pixel_limit_is_judged_from_the_header(size: tuple[int, int]) -> None:
    # The file holds no pixels: an answer other than "too large" would mean that decoding was tried.
    with pytest.raises(TooLarge):
        ImageIntake().from_bytes(png_header(*size))


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageUnreadable):
        ImageIntake().from_bytes(png_header(0, 10))


def test_a_text_chunk_that_unfolds_to_gigabytes_is_refused() -> None:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    data = encoded(picture())
    bomb = data[:33] + chunk(b"zTXt", b"note\0\0" + packed) + data[33:]
    with pytest.raises(ImageUnreadable):
        ImageIntake().from_bytes(bomb)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(picture(), "JPEG", progressive=True)
    assert ImageIntake().from_bytes(data).width == 40
    start = data.rindex(b"\xff\xda")
    with pytest.raises(ImageUnreadable, match="scans"):
        ImageIntake().from_bytes(data[:start] + data[start:-2] * 200 + data[-2:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_broken_files_give_a_picture_or_a_refusal(kind: str) -> None:
    chance = random.Random(kind)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(picture(), kind, exif=exif)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randint(len(data) // 2, 2 * len(data)) :]
        try:
            source = ImageIntake().from_bytes(bytes(data))
        except ServiceError:
            continue
        assert source.pixels.shape == (source.height, source.width, 3)


async def test_random_strings_give_a_refusal(intake: ImageIntake) -> None:
    chance = random.Random(0)
    alphabet = "/.~\\:%=+,;ab9 \n\0\ud800é" + "data:image/png;base64"
    for _ in range(500):
        text = "".join(chance.choices(alphabet, k=chance.randint(0, 40)))
        with pytest.raises(ServiceError):
            await intake.read(text)


async def test_random_bytes_behind_a_known_start_give_a_refusal(intake: ImageIntake) -> None:
    chance = random.Random(1)
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBP"):
        for _ in range(100):
            with pytest.raises(ServiceError):
                await intake.read(base64.b64encode(start + chance.randbytes(chance.randint(0, 200))).decode())


# --- the forms a field takes ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "shape",
    [
        "{text}",
        "  {text}\n",
        "{bare}",
        "{lines}",
        "data:image/png;base64,{text}",
        "DATA:;base64,{bare}",
        "data:image/jpeg;charset=utf-8;base64,{quoted}",
    ],
)
@pytest.mark.parametrize("with_root", [True, False])
async def test_base64_is_read(kind: str, shape: str, with_root: bool, root: Path) -> None:
    text = base64.b64encode(encoded(picture(), kind)).decode()
    source = shape.format(
        text=text,
        bare=text.rstrip("="),
        lines="\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        quoted=text.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D"),
    )
    found = await ImageIntake(input_roots=(root,) if with_root else ()).read(source)
    assert found.width == 40


async def test_base64_of_something_else_is_no_image_whatever_the_roots(root: Path) -> None:
    for roots in ((), (root,)):
        with pytest.raises(ImageUnreadable, match="JPEG, PNG, WebP, AVIF or HEIC"):
            await ImageIntake(input_roots=roots).read(base64.b64encode(b"hello, this is text").decode())


@pytest.mark.parametrize("spoiled", ["!", "-", "é", "="])
async def test_base64_is_strict(intake: ImageIntake, spoiled: str) -> None:
    text = base64.b64encode(encoded(picture())).decode()
    with pytest.raises(ImageUnreadable, match="base64"):
        await intake.read(text[:100] + spoiled + text[100:])


async def test_base64_over_the_byte_limit_is_too_large() -> None:
    data = encoded(picture())
    text = base64.b64encode(data).decode()
    assert (await ImageIntake(max_image_bytes=len(data)).read(text)).width == 40
    with pytest.raises(TooLarge):
        await ImageIntake(max_image_bytes=len(data) - 1).read(text)


async def test_a_data_url_without_base64_is_refused(intake: ImageIntake) -> None:
    with pytest.raises(ImageUnreadable, match="base64"):
        await intake.read("data:image/png,abc")


@pytest.mark.parametrize(
    "name", ["sub/cat.png", "./sub/cat.png", "sub/../sub/cat.png", "plain", "{root}/sub/cat.png"]
)
async def test_a_path_under_an_input_root_is_read(intake: ImageIntake, root: Path, name: str) -> None:
    assert (await intake.read(name.format(root=root))).width == 40


async def test_every_input_root_is_searched(intake: ImageIntake, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "dog.png").write_bytes(encoded(picture(8, 8)))
    both = ImageIntake(input_roots=(*intake.input_roots, second))
    assert (await both.read("dog.png")).width == 8
    assert (await both.read("sub/cat.png")).width == 40


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.png", "sub/../../secret.png", "~/a.png", "~me", "{root}/../secret.png", ".."],
)
async def test_a_path_outside_is_forbidden_and_not_echoed(intake: ImageIntake, root: Path, name: str) -> None:
    with pytest.raises(PathForbidden) as caught:
        await intake.read(name.format(root=root))
    assert "/" not in caught.value.detail


async def test_a_link_out_of_the_root_is_forbidden(intake: ImageIntake, root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "folder").symlink_to(root.parent)
    for name in ("link.png", "folder/secret.png"):
        with pytest.raises(PathForbidden):
            await intake.read(name)


async def test_a_link_inside_the_root_is_read(intake: ImageIntake, root: Path) -> None:
    (root / "link.png").symlink_to(root / "sub" / "cat.png")
    assert (await intake.read("link.png")).width == 40


async def test_a_root_that_is_itself_a_link_works(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert (await ImageIntake(input_roots=(tmp_path / "alias",)).read("sub/cat.png")).width == 40


async def test_a_missing_file_says_so(intake: ImageIntake) -> None:
    with pytest.raises(ImageUnreadable, match="last_frame_path names no file"):
        await intake.read("sub/none.png", field="last_frame_path")


async def test_folders_and_pipes_are_refused(intake: ImageIntake, root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    for name in ("sub", "pipe.png", "./"):
        with pytest.raises(ImageUnreadable):
            await intake.read(name)


async def test_a_file_over_the_byte_limit_is_too_large(root: Path) -> None:
    with pytest.raises(TooLarge):
        await ImageIntake(input_roots=(root,), max_image_bytes=10).read("plain")


async def test_paths_are_refused_where_no_root_is_set() -> None:
    with pytest.raises(PathForbidden, match="base64"):
        await ImageIntake().read("/some/cat.png")


@pytest.mark.parametrize(
    ("source", "hint"), [("https://images.example/a.png", "turned off"), ("ftp://a/b.png", "http")]
)
async def test_urls_that_are_not_read_name_the_field(intake: ImageIntake, source: str, hint: str) -> None:
    with pytest.raises(InvalidField, match=hint) as caught:
        await intake.read(source, field="last_frame_path")
    assert caught.value.field == "last_frame_path"


async def test_an_empty_field_is_invalid(intake: ImageIntake) -> None:
    with pytest.raises(InvalidField):
        await intake.read(" \n")
