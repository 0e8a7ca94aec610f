"""ffmpeg's encoders: which of them there are, and what each is told."""

import logging
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache

from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.tasks.video_output import Codec, VideoFormat

_LISTED_S = 20.0
_ASKED_AT_MOST = 3
_ENCODER = re.compile(r"^ [VASD.]{1}[A-Z.]{5} (\S+)", re.MULTILINE)

_OF_CODEC: Mapping[Codec, Sequence[str]] = {
    Codec.H264: ("libx264",),
    Codec.H265: ("libx265",),
    Codec.VP9: ("libvpx-vp9",),
    Codec.AV1: ("libsvtav1", "libaom-av1"),
}
"""Encoders of a codec, the fastest first."""

_OF_PICTURES: Mapping[VideoFormat, str] = {
    VideoFormat.GIF: "gif",
    VideoFormat.WEBP: "libwebp_anim",
    VideoFormat.PNG_ZIP: "png",
}

ARGUMENTS: Mapping[str, Sequence[str]] = {
    "libx265": ("-preset", "veryfast", "-x265-params", "pools=4:log-level=error", "-tag:v", "hvc1"),
    "libvpx-vp9": ("-b:v", "0", "-deadline", "realtime", "-cpu-used", "5", "-row-mt", "1", "-threads", "4"),
    "libsvtav1": ("-preset", "8", "-svtav1-params", "lp=4"),
    "libaom-av1": ("-b:v", "0", "-usage", "realtime", "-cpu-used", "8", "-row-mt", "1", "-threads", "4"),
    "gif": ("-loop", "0"),
    "libwebp_anim": ("-quality", "80", "-compression_level", "3", "-loop", "0"),
    "png": ("-compression_level", "6", "-pred", "mixed", "-threads", "4"),
}
"""What an encoder is told of its speed. Apple's players want the tag of H.265; pictures are shown again and
again.
"""

CRF: Mapping[Codec, int] = {Codec.H265: 20, Codec.VP9: 24, Codec.AV1: 24}
"""Constant rate factor of a codec beside H.264, where the client names none."""

_logger = logging.getLogger("ray.serve")


def codec_encoder(codec: Codec) -> str | None:
    """Return the encoder of a codec; None if this ffmpeg has none."""
    return next((name for name in _OF_CODEC[codec] if name in listed_encoders()), None)


def picture_encoder(form: VideoFormat) -> str | None:
    """Return the encoder of a row of pictures; None if this ffmpeg has none."""
    return _OF_PICTURES[form] if _OF_PICTURES[form] in listed_encoders() else None


@cache
def written_formats() -> Mapping[VideoFormat, Sequence[Codec]]:
    """Return the formats that this ffmpeg writes, with those codecs of each. The first call runs ffmpeg."""
    found: dict[VideoFormat, Sequence[Codec]] = {}
    for form in VideoFormat:
        codecs = tuple(codec for codec in form.codecs if codec_encoder(codec))
        if codecs or (form in _OF_PICTURES and picture_encoder(form)):
            found[form] = codecs
    return found


@cache
def listed_encoders() -> frozenset[str]:
    """Return the names of ffmpeg's encoders; none if ffmpeg does not tell.

    That is remembered, so an ffmpeg that a signal ends is asked again.
    """
    for _ in range(_ASKED_AT_MOST):
        try:
            command = [ffmpeg_program(), "-nostdin", "-hide_banner", "-encoders"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LISTED_S, check=True)
            return frozenset(_ENCODER.findall(done.stdout))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            _logger.exception("ffmpeg does not list its encoders")
            if not isinstance(error, subprocess.CalledProcessError) or error.returncode >= 0:
                break
    return frozenset()
