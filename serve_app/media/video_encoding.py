"""How frames come to ffmpeg, and what encodes them to which file."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

from models.errors import TuningError
from models.pixel_format import PixelFormat
from serve_app.media.encoders import ARGUMENTS, CRF, codec_encoder, picture_encoder
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.tasks.video_output import PLAIN, Codec, VideoFormat, VideoOutput

Encoder: TypeAlias = Literal["libx264", "h264_nvenc"]
"""An encoder of ffmpeg: on the processor, or in the video unit that some NVIDIA GPUs have."""

LOG_PREFIX = re.compile(r"\[[^]]* @ 0x[0-9a-f]+\] ")
"""What ffmpeg says of the place of a message."""

_PROBED_S = 20.0
_TAGS = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
# Without them the colours are converted as for standard definition, and players guess.
_CONVERSION = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
_PALETTES = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
"""A palette for each frame: one for all would keep all frames in memory until the last."""
_CONTAINERS: Mapping[VideoFormat, Sequence[str]] = {
    VideoFormat.MP4: ("-movflags", "+faststart", "-f", "mp4"),
    VideoFormat.WEBM: ("-cues_to_front", "1", "-f", "webm"),
    VideoFormat.GIF: ("-f", "gif"),
    VideoFormat.WEBP: ("-f", "webp"),
    VideoFormat.PNG_ZIP: ("-f", "image2pipe"),
}
"""Muxers, those of videos with the index in front."""


@dataclass(frozen=True, slots=True)
class VideoEncoding:
    """The pixel format of the frames that are written, their encoder, and the form of the file."""

    pixel_format: PixelFormat = PixelFormat.RGB24
    encoder: Encoder = "libx264"
    """Of H.264; the encoders of other codecs run on the processor."""
    output: VideoOutput = PLAIN
    quality: int = 18
    """Of H.264 where the client names none: of x264 the constant rate factor, of NVENC the constant quality.
    Less is better, and larger.
    """
    preset: str = "veryfast"
    """Of x264."""
    threads: int = 4  # fixed, since the bytes of the file depend on it
    devices: str | None = None
    """The GPUs that ffmpeg sees, as in ``CUDA_VISIBLE_DEVICES``; None: those of this process."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of ffmpeg's environment that differ from this process's."""
        return {} if self.devices is None else {"CUDA_VISIBLE_DEVICES": self.devices}

    def of(self, output: VideoOutput) -> "VideoEncoding":
        """Return the encoding of a file in that form: pictures are made of RGB frames."""
        has_pictures = output.return_last_frame or not output.format.codecs
        pixel_format = PixelFormat.RGB24 if has_pictures else self.pixel_format
        return replace(self, output=output, pixel_format=pixel_format)

    @property
    def is_pngs(self) -> bool:
        """Whether ffmpeg is to send single PNGs, for a ZIP file, instead of writing the file."""
        return self.output.format is VideoFormat.PNG_ZIP

    @property
    def arguments(self) -> Sequence[str]:
        """ffmpeg's arguments about filters, the encoder and the container.

        Raises ``TuningError`` if this ffmpeg cannot write such a file.
        """
        form, codec = self.output.format, self.output.used_codec
        if codec is not None:
            return ("-vf", self.filters, *self.codec_arguments(codec), *_CONTAINERS[form])
        name = _required(picture_encoder(form), form)
        filters = ("-vf", _PALETTES) if form is VideoFormat.GIF else ()
        return (*filters, "-c:v", name, *ARGUMENTS[name], *_CONTAINERS[form])

    @property
    def filters(self) -> str:
        """The filters that make the frames 4:2:0 in BT.709, if they are not, and say so in the file."""
        return _TAGS if self.pixel_format is PixelFormat.YUV420P else f"{_CONVERSION},{_TAGS}"

    def codec_arguments(self, codec: Codec) -> Sequence[str]:
        """Return ffmpeg's arguments about the encoder of a codec. Raises ``TuningError`` without one."""
        crf = self.output.crf
        if codec is not Codec.H264:
            name = _required(codec_encoder(codec), codec)
            return ("-c:v", name, "-crf", str(CRF[codec] if crf is None else crf), *ARGUMENTS[name])
        quality = self.quality if crf is None else crf
        if self.encoder == "h264_nvenc":
            return (
                *("-c:v", self.encoder, "-preset", "p4"),
                *("-rc", "vbr", "-cq", str(max(quality, 1)), "-b:v", "0"),
            )
        return (
            *("-c:v", self.encoder, "-preset", self.preset),
            *("-crf", str(quality), "-threads", str(self.threads)),
        )


def _required(encoder: str | None, what: str) -> str:
    if encoder is None:
        raise TuningError(f"This ffmpeg has no encoder of {what}.")
    return encoder


@cache
def require(encoder: Encoder) -> None:
    """Raise ``TuningError`` with ffmpeg's words if this process cannot use ``encoder``.

    x264 comes with ffmpeg. A build of ffmpeg with NVENC says nothing of the GPU: a few frames are encoded.
    """
    if encoder == "libx264":
        return
    command = [
        ffmpeg_program(),
        *("-nostdin", "-hide_banner", "-loglevel", "error", "-f", "lavfi"),
        *("-i", "color=size=256x256:rate=8:duration=1,format=yuv420p"),
        *VideoEncoding(encoder=encoder).codec_arguments(Codec.H264),
        *("-f", "null", "-"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBED_S, check=False)
    except subprocess.TimeoutExpired:
        raise TuningError(f"{encoder} cannot be used: ffmpeg did not end within {_PROBED_S:g} s.") from None
    if done.returncode:
        said = LOG_PREFIX.sub("", done.stderr.strip()).splitlines() or [f"status {done.returncode}"]
        raise TuningError(f"{encoder} cannot be used: {said[0].rstrip('.')}.")
