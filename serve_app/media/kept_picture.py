"""A decoded picture as it is stored, which takes a fraction of its pixels."""

import io
from dataclasses import dataclass
from typing import Self

from PIL import Image

from serve_app.media.source_image import SourceImage, crop_note


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A picture as PNG, and its width and height in pixels."""

    png: bytes
    width: int
    height: int

    @classmethod
    def of(cls, image: SourceImage) -> Self:
        """Encode a picture. Occupies the CPU: call it in a thread."""
        return cls(image.to_png(), image.width, image.height)

    @classmethod
    def from_png(cls, data: bytes) -> Self:
        """Take a picture that was stored before; its pixels are not decoded. Raises ``OSError``."""
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return cls(data, *image.size)

    def crop_note(self, width: int, height: int) -> str | None:
        """Return a sentence when a video of this size cuts off more than 1 % of the picture, else None."""
        return crop_note((self.width, self.height), (width, height))
