"""Still pictures of finished videos, made when they are first asked for, and kept beside the video."""

import asyncio
import logging
import math
import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import imageio_ffmpeg

from serve_app.errors import FileNotFound
from serve_app.files import durable

_AT_ONCE = 2
_TIMEOUT_S = 60
_THUMBNAIL_WIDTH = 512
_COLUMNS = 4
_ROWS = 4
_TILE_WIDTH = 240

_logger = logging.getLogger("ray.serve")


class StillKind(StrEnum):
    """A kind of still picture."""

    THUMBNAIL = "thumbnail"
    """The first frame, as WebP."""
    SPRITESHEET = "spritesheet"
    """Up to 16 frames, evenly spaced, in rows of four, as JPEG."""


_ENDINGS: Mapping[StillKind, str] = {
    StillKind.THUMBNAIL: ".thumbnail.webp",
    StillKind.SPRITESHEET: ".spritesheet.jpg",
}


class VideoStills:
    """Maker of stills; at most two are made at once, and each by one thread of a process of its own."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def of(self, video: Path, kind: StillKind, frames: int) -> Path:
        """Return the file of a still of ``video``, which has that many frames.

        Raises ``FileNotFound`` if none can be made.
        """
        still = video.with_name(video.stem + _ENDINGS[kind])
        if await asyncio.to_thread(still.is_file):
            return still
        async with self._room:
            await asyncio.to_thread(_make, video, still, _options(kind, frames))
        return still


def _make(video: Path, still: Path, options: Sequence[str]) -> None:
    temp = durable.temp_beside(still)
    try:
        subprocess.run(
            [
                *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y"),
                *("-protocol_whitelist", "file", "-threads", "1", "-f", "mov", "-i", f"file:{video}"),
                *("-map", "0:v:0", "-frames:v", "1", "-filter_threads", "1", *options, f"file:{temp}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )
        durable.replace(temp, still)
    except (subprocess.SubprocessError, OSError):
        if video.exists():  # else it was deleted meanwhile
            _logger.warning("no picture could be made of %s", video, exc_info=True)
        raise FileNotFound("No such picture could be made of the video.") from None
    finally:
        temp.unlink(missing_ok=True)


def _options(kind: StillKind, frames: int) -> Sequence[str]:
    """Return what ffmpeg is told of the picture: its filters, its encoder and its container."""
    if kind is StillKind.THUMBNAIL:
        scale = f"scale='min({_THUMBNAIL_WIDTH},iw)':-2"
        return ["-vf", scale, "-c:v", "libwebp", "-threads", "1", "-f", "webp"]
    step = math.ceil(frames / (_COLUMNS * _ROWS))
    shown = math.ceil(frames / step)
    columns = min(shown, _COLUMNS)
    tiles = f"tile={columns}x{math.ceil(shown / columns)}"
    chosen = rf"select=not(mod(n\,{step})),scale={_TILE_WIDTH}:-2,{tiles},format=yuvj420p"
    return [
        *("-vf", chosen, "-fps_mode", "passthrough"),
        *("-c:v", "mjpeg", "-q:v", "4", "-threads", "1", "-f", "image2", "-update", "1"),
    ]
