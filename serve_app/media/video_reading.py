"""Frames of a finished video, decoded by ffmpeg."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.engine import Frames
from models.pixel_format import PixelFormat
from serve_app.media.child_killed import ChildKilled
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.media.video_stills import DEMUXERS
from serve_app.tasks.video_output import VideoFormat

_FRAMES_AT_ONCE = 8


class VideoReadError(RuntimeError):
    """A video could not be read, or has fewer frames than it should have."""


def read_video(
    video: Path, begin: int, end: int, *, width: int, height: int, pixel_format: PixelFormat
) -> Iterator[Frames]:
    """Yield the frames ``begin`` … ``end - 1`` of a video of that size, a few at a time.

    Raises ``VideoReadError``, or ``ChildKilled`` where a signal ends ffmpeg.
    """
    shape = pixel_format.frame_shape(width, height)
    left = end - begin
    with subprocess.Popen(_command(video, begin, end, pixel_format), stdout=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdout is not None
        try:
            while left > 0:
                count = min(left, _FRAMES_AT_ONCE)
                data = ffmpeg.stdout.read(count * int(np.prod(shape)))
                frames = np.frombuffer(data, np.uint8)
                if frames.size != count * int(np.prod(shape)):
                    if (exit_status := ffmpeg.wait()) < 0:
                        raise ChildKilled(exit_status)
                    raise VideoReadError(f"{video.name} has no {end} frames of {width}x{height}")
                yield frames.reshape(count, *shape)
                left -= count
        finally:
            ffmpeg.kill()


def _command(video: Path, begin: int, end: int, pixel_format: PixelFormat) -> list[str]:
    form = VideoFormat.of_file(video) or VideoFormat.MP4
    chosen = rf"select=between(n\,{begin}\,{end - 1}),scale=in_color_matrix=bt709:in_range=tv"
    if pixel_format is not PixelFormat.RGB24:
        chosen += ":out_color_matrix=bt709:out_range=tv"
    return [
        *(ffmpeg_program(), "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"),
        *("-f", DEMUXERS[form], "-i", f"file:{video}", "-map", "0:v:0", "-vf", chosen),
        *("-fps_mode", "passthrough", "-frames:v", str(end - begin)),
        *("-f", "rawvideo", "-pix_fmt", pixel_format, "pipe:1"),
    ]
