"""The ffmpeg program: where it is, found without running it."""

import os
import shutil
from functools import cache
from importlib.resources import files


def ffmpeg_program() -> str:
    """Return the path of ffmpeg: ``IMAGEIO_FFMPEG_EXE``, that inside imageio-ffmpeg, or the system's.

    imageio-ffmpeg's own search runs ffmpeg to try it, and a process in which a signal ends that run has no
    ffmpeg any more. Raises ``RuntimeError`` if there is none.
    """
    found = os.environ.get("IMAGEIO_FFMPEG_EXE") or _packaged() or shutil.which("ffmpeg")
    if found is None:
        raise RuntimeError("There is no ffmpeg: install imageio-ffmpeg, or name one in IMAGEIO_FFMPEG_EXE.")
    return found


@cache
def _packaged() -> str | None:
    folder = files("imageio_ffmpeg.binaries")
    return next((str(file) for file in folder.iterdir() if file.name.startswith("ffmpeg-")), None)
