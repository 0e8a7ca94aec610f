"""Image intake: every form in which the API takes an image, decoded to a picture."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from serve_app.media import image_decoding
from serve_app.media.file_intake import FileIntake
from serve_app.media.kept_picture import KeptPicture
from serve_app.media.picture_pool import in_picture_pool
from serve_app.media.source_image import SourceImage
from serve_app.media.url_fetch import UrlFetch


@dataclass(frozen=True, slots=True)
class ImageIntake:
    """Reads images within the limits. Every error it raises is a ``ServiceError``.

    ``url_fetch``: None turns URLs off; ``input_roots``: the folders that a path may lead into.
    """

    max_image_bytes: int = 20_000_000
    max_image_pixels: int = 16_800_000
    input_roots: tuple[Path, ...] = ()
    url_fetch: UrlFetch | None = None

    async def read(self, source: str, field: str = "image_path") -> SourceImage:
        """Read the image that a request field names or holds: URL, ``data:`` URL, base64 or path.

        Raises ``InvalidField``, ``PathForbidden``, ``TooLarge`` or ``ImageUnreadable``.
        """
        return await asyncio.to_thread(self.from_bytes, await self._files.read(source, field))

    async def kept(self, source: str | bytes, field: str) -> KeptPicture:
        """Read an image as ``read`` does, or one that was uploaded, as it is stored.

        What is decoded at once is bounded for the process: see ``serve_app.media.picture_pool``.
        """
        data = source if isinstance(source, bytes) else await self._files.read(source, field)
        pixels = await in_picture_pool(0, lambda: image_decoding.pixels_of(data))
        return await in_picture_pool(pixels, lambda: KeptPicture.of(self.from_bytes(data)))

    def from_bytes(self, data: bytes) -> SourceImage:
        """Decode the image in an uploaded file. Occupies the CPU for up to a second: call it in a thread.

        Raises ``TooLarge`` or ``ImageUnreadable``.
        """
        return image_decoding.decode(self._files.checked(data), max_pixels=self.max_image_pixels)

    @property
    def _files(self) -> FileIntake:
        return FileIntake(self.max_image_bytes, self.input_roots, self.url_fetch)
