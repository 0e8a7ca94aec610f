"""Formats of a video's frames in memory, named as ffmpeg names them. Imports no torch."""

from enum import StrEnum


class PixelFormat(StrEnum):
    """The bytes of a frame, uint8."""

    RGB24 = "rgb24"
    """Red, green and blue of each pixel, ``[height, width, 3]``."""
    YUV420P = "yuv420p"
    """BT.709 in the range of television, ``[height · 3 / 2, width]``: first the luma of each pixel, then two
    chroma planes of half the height and width, so half the bytes of ``RGB24``. Both sizes are even.
    """

    def frame_shape(self, width: int, height: int) -> tuple[int, ...]:
        """Return the shape of a frame of this size in pixels."""
        return (height, width, 3) if self is PixelFormat.RGB24 else (height * 3 // 2, width)


def video_format(device: str) -> PixelFormat:
    """Return the format in which an engine on ``device`` (such as ``cuda:0``) hands frames to a video file.

    A GPU converts them to what the file holds, so that half as many bytes are copied and ffmpeg converts
    nothing. On a CPU ffmpeg's own conversion is faster than torch's.
    """
    return PixelFormat.YUV420P if device.startswith("cuda") else PixelFormat.RGB24
