"""How frames come to ffmpeg, and what encodes them to H.264."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import imageio_ffmpeg

from models.errors import TuningError
from models.pixel_format import PixelFormat

Encoder: TypeAlias = Literal["libx264", "h264_nvenc"]
"""An encoder of ffmpeg: on the processor, or in the video unit that some NVIDIA GPUs have."""

LOG_PREFIX = re.compile(r"\[[^]]* @ 0x[0-9a-f]+\] ")
"""What ffmpeg says of the place of a message."""

_PROBED_S = 20.0
_TAGS = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
# Without them the colours are converted as for standard definition, and players guess.
_CONVERSION = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"


@dataclass(frozen=True, slots=True)
class VideoEncoding:
    """The pixel format of the frames that are written, and the encoder."""

    pixel_format: PixelFormat = PixelFormat.RGB24
    encoder: Encoder = "libx264"
    quality: int = 18
    """Of x264 the constant rate factor, of NVENC the constant quality: less is better, and larger."""
    preset: str = "veryfast"
    """Of x264."""
    threads: int = 4  # fixed, since the bytes of the file depend on it

    @property
    def filters(self) -> str:
        """The filters that make the frames 4:2:0 in BT.709, if they are not, and say so in the file."""
        return _TAGS if self.pixel_format is PixelFormat.YUV420P else f"{_CONVERSION},{_TAGS}"

    @property
    def encoder_arguments(self) -> Sequence[str]:
        """ffmpeg's arguments about the encoder."""
        if self.encoder == "h264_nvenc":
            return (
                *("-c:v", self.encoder, "-preset", "p4"),
                *("-rc", "vbr", "-cq", str(self.quality), "-b:v", "0"),
            )
        return (
            *("-c:v", self.encoder, "-preset", self.preset),
            *("-crf", str(self.quality), "-threads", str(self.threads)),
        )


@cache
def require(encoder: Encoder) -> None:
    """Raise ``TuningError`` with ffmpeg's words if this process cannot use ``encoder``.

    x264 comes with ffmpeg. A build of ffmpeg with NVENC says nothing of the GPU: a few frames are encoded.
    """
    if encoder == "libx264":
        return
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-nostdin", "-hide_banner", "-loglevel", "error", "-f", "lavfi"),
        *("-i", "color=size=256x256:rate=8:duration=1,format=yuv420p"),
        *VideoEncoding(encoder=encoder).encoder_arguments,
        *("-f", "null", "-"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBED_S, check=False)
    except subprocess.TimeoutExpired:
        raise TuningError(f"{encoder} cannot be used: ffmpeg did not end within {_PROBED_S:g} s.") from None
    if done.returncode:
        said = LOG_PREFIX.sub("", done.stderr.strip()).splitlines() or [f"status {done.returncode}"]
        raise TuningError(f"{encoder} cannot be used: {said[0].rstrip('.')}.")
