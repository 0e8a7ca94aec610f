"""The form of a video's file: its format, codec and quality, as a client chooses them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

MAX_PICTURES = 1000
"""Most frames of a video that is a row of pictures: each is whole, so the file grows fast."""

MAX_FPS = 60
"""Most frames a second of a video."""

MAX_GIF_FPS = 50
"""A GIF counts time in hundredths of a second, and players slow down what changes each hundredth."""


class Codec(StrEnum):
    """A codec of videos."""

    H264 = "h264"
    H265 = "h265"
    VP9 = "vp9"
    AV1 = "av1"

    @property
    def max_crf(self) -> int:
        """The largest constant rate factor, that of the smallest file; 0 is the least."""
        return 51 if self in (Codec.H264, Codec.H265) else 63


class VideoFormat(StrEnum):
    """A format of files: a container of videos, or a row of pictures."""

    MP4 = "mp4"
    WEBM = "webm"
    GIF = "gif"
    WEBP = "webp"
    PNG_ZIP = "png-zip"

    @property
    def suffix(self) -> str:
        """The end of a file's name."""
        return f".{self.rpartition('-')[2]}"

    @property
    def media_type(self) -> str:
        """The media type, as HTTP has it."""
        return _MEDIA_TYPES[self]

    @property
    def codecs(self) -> Sequence[Codec]:
        """The codecs that it can hold, its usual one first; none for pictures."""
        return _CODECS.get(self, ())

    @classmethod
    def of_file(cls, path: PurePath | str) -> "VideoFormat | None":
        """Return the format that a file's name ends in, None for another end."""
        return _BY_SUFFIX.get(PurePath(path).suffix.lower())


_MEDIA_TYPES: Mapping[VideoFormat, str] = {
    VideoFormat.MP4: "video/mp4",
    VideoFormat.WEBM: "video/webm",
    VideoFormat.GIF: "image/gif",
    VideoFormat.WEBP: "image/webp",
    VideoFormat.PNG_ZIP: "application/zip",
}
_CODECS: Mapping[VideoFormat, Sequence[Codec]] = {
    VideoFormat.MP4: (Codec.H264, Codec.H265, Codec.VP9, Codec.AV1),
    VideoFormat.WEBM: (Codec.VP9, Codec.AV1),
}
_BY_SUFFIX: Mapping[str, VideoFormat] = {form.suffix: form for form in VideoFormat}


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """What a client chose of its file; the rest is as usual."""

    format: VideoFormat = VideoFormat.MP4
    codec: Codec | None = None
    """None: the usual one of the format."""
    crf: int | None = None
    """Constant rate factor: less is better, and larger. None: the service's own."""
    return_last_frame: bool = False
    """Whether the last frame is kept beside the video, as it was made."""

    @property
    def used_codec(self) -> Codec | None:
        """The codec of the file, None for a row of pictures."""
        return self.codec or next(iter(self.format.codecs), None)


PLAIN = VideoOutput()
"""H.264 in MP4, at the service's own quality."""
