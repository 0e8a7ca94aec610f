"""Decoding of untrusted images: any bytes give a picture or a ``ServiceError``, in bounded time and
memory.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ImageUnreadable, ServiceError, TooLarge
from serve_app.media import image_formats
from serve_app.media.heif_decoding import declared_pixels, decode_heif
from serve_app.media.source_image import SourceImage

FORMATS = ("JPEG", "PNG", "WEBP")
# Every scan of a progressive JPEG walks over the whole picture. Encoders write about ten; a file of thousands
# of empty ones is small and keeps a core busy for hours.
MAX_JPEG_SCANS = 100

_SCAN_MARKER = b"\xff\xda"  # entropy-coded data never holds it, there 0xff is followed by 0x00 or a restart
_STRIP_PIXELS = 1_000_000
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, max_pixels: int) -> SourceImage:
    """Decode the picture in ``data``, a JPEG, PNG, WebP, AVIF or HEIC file by its content.

    Turns it upright, composites transparency onto white, takes the first frame of an animation
    and reduces 16 bits to 8. Ignores colour profiles: a profile is a program, and untrusted ones are not run.

    Raises ``TooLarge`` over ``max_pixels``, judged from the header, and ``ImageUnreadable`` for all else; for
    other formats with their names.
    """
    if not data:
        raise ImageUnreadable("The image is empty.")
    if image_formats.is_heif(data):
        pixels = decode_heif(data, max_pixels=max_pixels)
        return SourceImage(_rgb_pixels(Image.fromarray(pixels)))
    if not image_formats.is_read(data):
        found = image_formats.name_of(data) or "no picture of a known format"
        raise ImageUnreadable(f"The image is {found}; {image_formats.ADVICE}.")
    if data.startswith(b"\xff\xd8") and data.count(_SCAN_MARKER) > MAX_JPEG_SCANS:
        raise ImageUnreadable("The JPEG has more scans than any camera or program writes.")
    try:
        return _decode(data, max_pixels)
    except ServiceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(max_pixels) from None
    except Exception:  # Pillow's decoders raise about any type on broken files, and which one says nothing
        raise ImageUnreadable("The image is damaged or incomplete and cannot be decoded.") from None


def pixels_of(data: bytes) -> int:
    """Return how many pixels the header of a picture says it has; 0 for one that cannot be decoded."""
    if image_formats.is_heif(data):
        return declared_pixels(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # what decoding it raises will say why
        return 0


def _decode(data: bytes, max_pixels: int) -> SourceImage:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width < 1 or height < 1:
            raise ImageUnreadable("The image has no pixels.")
        if width * height > max_pixels:
            raise _too_many_pixels(max_pixels)
        image.load()
        # Read before the conversions, which may drop it; PNG and WebP keep it behind the pixels.
        turn = _UPRIGHT.get(_orientation(image))
        return SourceImage(_rgb_pixels(image if turn is None else image.transpose(turn)))


def _rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a picture in strips, since on the way to RGB there are up to four copies of it."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(to_rgb(image.crop((0, top, image.width, bottom))))
    return pixels


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata is no reason to refuse a good picture
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits of red, green and blue, what is transparent onto white; each pixel by itself."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip 16-bit gray at 255 instead of scaling it.
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _too_many_pixels(max_pixels: int) -> TooLarge:
    return TooLarge(f"The image has more than {max_pixels} pixels; send a smaller one.")
