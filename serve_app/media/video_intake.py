"""Video intake: every form in which the API takes a video, measured within the limits."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from serve_app.media import video_decoding
from serve_app.media.file_intake import FileIntake
from serve_app.media.source_video import SourceVideo


@dataclass(frozen=True, slots=True)
class VideoIntake:
    """Reads videos. Every error it raises is a ``ServiceError``."""

    files: FileIntake
    max_pixels: int
    max_s: float

    async def read(self, source: str, field: str) -> SourceVideo:
        """Measure the video that a request field names or holds: URL, ``data:`` URL, base64 or path.

        Raises ``InvalidField``, ``PathForbidden``, ``TooLarge`` or ``VideoUnreadable``.
        """
        return await asyncio.to_thread(self.measured, await self.files.read(source, field))

    def measured(self, data: bytes) -> SourceVideo:
        """Measure the video in an uploaded file. Raises ``TooLarge`` or ``VideoUnreadable``."""
        return video_decoding.measure(self.files.checked(data), max_pixels=self.max_pixels, max_s=self.max_s)

    def kept(self, path: Path) -> SourceVideo:
        """Measure a stored video. Raises ``VideoUnreadable``."""
        return video_decoding.measure(path, max_pixels=self.max_pixels, max_s=self.max_s)
