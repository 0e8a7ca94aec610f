"""The decoded picture a video starts or ends with."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ASPECT_TOLERANCE = 0.01  # cutting less than this is not worth a note


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """An upright, opaque sRGB picture: ``pixels`` is read-only uint8 ``[height, width, 3]``."""

    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)

    @classmethod
    def from_png(cls, data: bytes) -> "SourceImage":
        """Read a picture that ``to_png`` wrote. Trusts ``data``: bytes from a client go through
        ``ImageIntake``.
        """
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return cls(np.array(image.convert("RGB"), dtype=np.uint8))

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    def to_png(self) -> bytes:
        """Encode the picture losslessly and without the sender's metadata: the form that the service
        stores.
        """
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG", compress_level=1)  # a submit waits for it
        return buffer.getvalue()

    def cover_crop(self, width: int, height: int) -> NDArray[np.uint8]:
        """Scale the picture to cover the size and crop it to its centre: uint8 ``[height, width, 3]``."""
        if (width, height) == (self.width, self.height):
            return self.pixels.copy()
        scale = max(width / self.width, height / self.height)
        # Cut before scaling: a picture one pixel high would otherwise grow by millions of columns.
        cut_width = min(width / scale, self.width)
        cut_height = min(height / scale, self.height)
        left = (self.width - cut_width) / 2
        top = (self.height - cut_height) / 2
        box = (left, top, min(left + cut_width, self.width), min(top + cut_height, self.height))
        scaled = Image.fromarray(self.pixels).resize((width, height), Image.Resampling.LANCZOS, box=box)
        return np.array(scaled, dtype=np.uint8)

    def crop_note(self, width: int, height: int) -> str | None:
        """Return a sentence for the client when ``cover_crop`` to this size cuts off more than 1 %, else
        None.
        """
        return crop_note((self.width, self.height), (width, height))


def crop_note(image_size: tuple[int, int], video_size: tuple[int, int]) -> str | None:
    """Say what fitting an image into a video cuts off; both sizes are ``(width, height)`` in pixels."""
    image_width, image_height = image_size
    video_width, video_height = video_size
    one, other = image_width * video_height, video_width * image_height
    if max(one, other) <= (1 + ASPECT_TOLERANCE) * min(one, other):
        return None
    return f"image {image_width}x{image_height} was centre-cropped to {video_width}x{video_height}"
