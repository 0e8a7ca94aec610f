"""The comment of a video's file, in the place that its format has for one."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from serve_app.media.gif_comment import add_gif_comment, comment_in_gif
from serve_app.media.matroska_comment import comment_in_matroska
from serve_app.media.mp4_comment import comment_in_mp4
from serve_app.media.png_zip import settings_in_zip
from serve_app.media.webp_comment import add_webp_comment, comment_in_webp
from serve_app.tasks.video_output import VideoFormat

MAX_COMMENT_BYTES = 200_000
"""Longer comments are not read; the longest settings have about 50,000 bytes."""

_READERS: Sequence[tuple[re.Pattern[bytes], Callable[[bytes], bytes | None]]] = (
    (re.compile(rb"\x1aE\xdf\xa3"), comment_in_matroska),
    (re.compile(rb"GIF8[79]a"), comment_in_gif),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), comment_in_webp),
    (re.compile(rb"PK\x03\x04"), settings_in_zip),
    (re.compile(b""), comment_in_mp4),
)
"""What a file begins with, and what reads it. Each decodes nothing, and looks at so many parts at most."""


def comment_of(video: bytes) -> str | None:
    """Return a file's comment, None if it has none or is of another format. Never raises."""
    found = next(read for begin, read in _READERS if begin.match(video))(video)
    return None if found is None or len(found) > MAX_COMMENT_BYTES else found.decode(errors="replace")


def as_metadata_file(comment: str) -> str:
    """Return the text of a metadata file of ffmpeg that sets a comment, of an MP4 or a WebM."""
    return ";FFMETADATA1\ncomment=" + re.sub(r"([=;#\\\n])", r"\\\1", comment) + "\n"


def add_comment(path: Path, form: VideoFormat, comment: str, *, width: int, height: int) -> None:
    """Put a comment into a file of pictures, where ffmpeg writes none. Raises ``OSError``."""
    if form is VideoFormat.GIF:
        add_gif_comment(path, comment.encode())
    elif form is VideoFormat.WEBP:
        add_webp_comment(path, comment, width=width, height=height)
