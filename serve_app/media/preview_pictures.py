"""Previews as WebP: one picture of a run, and a strip of all of them that moves."""

import io

from PIL import Image

from models.engine import Frames

_QUALITY = 75
_METHOD = 2  # of 0 … 6, from fast to small


def still(pictures: Frames) -> bytes:
    """Return the middle one of the pictures."""
    buffer = io.BytesIO()
    middle = Image.fromarray(pictures[len(pictures) // 2])
    middle.save(buffer, "WEBP", quality=_QUALITY, method=_METHOD)
    return buffer.getvalue()


def strip(pictures: Frames, seconds: float) -> bytes:
    """Return all pictures as an animation of so many seconds, over and over."""
    buffer = io.BytesIO()
    first, *others = map(Image.fromarray, pictures)
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=max(1, round(1000 * seconds / len(pictures))),
        loop=0,
        quality=_QUALITY,
        method=_METHOD,
    )
    return buffer.getvalue()
