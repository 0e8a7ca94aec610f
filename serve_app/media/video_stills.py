"""Still pictures of finished videos, made when they are first asked for, and stored with the video."""

import asyncio
import logging
import math
import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

from serve_app.errors import FileNotFound
from serve_app.files.artifacts import Artifacts
from serve_app.files.stored_file import StoredFile
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.media.limited_ffmpeg import killed, was_killed
from serve_app.media.png_zip import frames_in
from serve_app.tasks.video_output import VideoFormat

_AT_ONCE = 2
_TIMEOUT_S = 60
_THUMBNAIL_WIDTH = 512
_COLUMNS = 4
_ROWS = 4
_TILE_WIDTH = 240

DEMUXERS: Mapping[VideoFormat, str] = {
    VideoFormat.MP4: "mov",
    VideoFormat.WEBM: "matroska",
    VideoFormat.GIF: "gif",
    VideoFormat.WEBP: "webp_anim",
    VideoFormat.PNG_ZIP: "png_pipe",
}
"""What reads a video: named, so that ffmpeg does not guess from its bytes."""

_logger = logging.getLogger("ray.serve")


class StillKind(StrEnum):
    """A kind of still picture."""

    THUMBNAIL = "thumbnail"
    """The first frame, as WebP."""
    SPRITESHEET = "spritesheet"
    """Up to 16 frames, evenly spaced, in rows of four, as JPEG."""
    LAST_FRAME = "last_frame"
    """The last frame, in its own size, as PNG; a run may have kept it as it was made."""


_ENDINGS: Mapping[StillKind, str] = {
    StillKind.THUMBNAIL: ".thumbnail.webp",
    StillKind.SPRITESHEET: ".spritesheet.jpg",
    StillKind.LAST_FRAME: ".last_frame.png",
}


def still_key(video: str, kind: StillKind) -> str:
    """Return the artifact key of a still of the video with that key."""
    return str(PurePosixPath(video).with_suffix(_ENDINGS[kind]))


class VideoStills:
    """Maker of stills; at most two are made at once, and each by one thread of a process of its own."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def of(self, video: str, kind: StillKind, frames: int) -> StoredFile:
        """Return a still of the video with that key, which has that many frames.

        Raises ``FileNotFound`` if none can be made, ``StoreUnavailable``, ``FfmpegKilled``.
        """
        key = still_key(video, kind)
        try:
            return await asyncio.to_thread(self._artifacts.find, key)
        except FileNotFound:
            async with self._room:
                return await asyncio.to_thread(self._make, video, key, kind, frames)

    def _make(self, video: str, key: str, kind: StillKind, frames: int) -> StoredFile:
        path = self._artifacts.path_of(video)
        with TemporaryDirectory(prefix="still") as folder:
            picture = Path(folder) / "still"
            _make(path, picture, kind, frames)
            try:
                self._artifacts.put_still(key, picture.read_bytes())
            except OSError:
                _logger.warning("a picture of %s could not be stored", video, exc_info=True)
                raise FileNotFound("No such picture could be made of the video.") from None
        return self._artifacts.find(key)


def _make(video: Path, picture: Path, kind: StillKind, frames: int) -> None:
    form = VideoFormat.of_file(video) or VideoFormat.MP4
    # A WebP of one frame is no animation.
    demuxer = "webp_pipe" if form is VideoFormat.WEBP and frames == 1 else DEMUXERS[form]
    try:
        pngs: Sequence[bytes] = ()
        source = f"file:{video}"
        if form is VideoFormat.PNG_ZIP:  # which ffmpeg does not read: it gets the frames that are shown
            pngs = frames_in(video, _chosen(kind, frames))
            source, frames = "pipe:0", len(pngs)
        subprocess.run(
            [
                *(ffmpeg_program(), "-nostdin", "-v", "error", "-y"),
                *("-protocol_whitelist", "file,pipe", "-threads", "1", "-f", demuxer, "-i", source),
                *(
                    "-map",
                    "0:v:0",
                    "-frames:v",
                    "1",
                    "-filter_threads",
                    "1",
                    *_options(kind, frames),
                    f"file:{picture}",
                ),
            ],
            input=b"".join(pngs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (subprocess.SubprocessError, OSError, BadZipFile) as error:
        if isinstance(error, subprocess.CalledProcessError) and was_killed(error.returncode):
            raise killed(f"it ended with the status {error.returncode}") from error
        if video.exists():  # else it was deleted meanwhile
            _logger.warning("no picture could be made of %s", video, exc_info=True)
        raise FileNotFound("No such picture could be made of the video.") from None


def _chosen(kind: StillKind, frames: int) -> slice:
    """Return which of a video's frames a still shows."""
    if kind is StillKind.SPRITESHEET:
        return slice(None, None, _step(frames))
    return slice(1) if kind is StillKind.THUMBNAIL else slice(frames - 1, frames)


def _step(frames: int) -> int:
    """Return the distance of the frames in a sheet."""
    return math.ceil(frames / (_COLUMNS * _ROWS))


def _options(kind: StillKind, frames: int) -> Sequence[str]:
    """Return what ffmpeg is told of the picture: its filters, its encoder and its container."""
    if kind is StillKind.THUMBNAIL:
        scale = f"scale='min({_THUMBNAIL_WIDTH},iw)':-2"
        return ["-vf", scale, "-c:v", "libwebp", "-threads", "1", "-f", "webp"]
    if kind is StillKind.LAST_FRAME:
        last = rf"select=gte(n\,{frames - 1})"
        return ["-vf", last, "-c:v", "png", "-threads", "1", "-f", "image2", "-update", "1"]
    step = _step(frames)
    shown = math.ceil(frames / step)
    columns = min(shown, _COLUMNS)
    tiles = f"tile={columns}x{math.ceil(shown / columns)}"
    chosen = rf"select=not(mod(n\,{step})),scale={_TILE_WIDTH}:-2,{tiles},format=yuvj420p"
    return [
        *("-vf", chosen, "-fps_mode", "passthrough"),
        *("-c:v", "mjpeg", "-q:v", "4", "-threads", "1", "-f", "image2", "-update", "1"),
    ]
