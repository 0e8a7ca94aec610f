"""Video writer: encodes frames as they come, while later frames are still being decoded."""

import errno
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.files import durable
from serve_app.media.child_killed import ChildKilled
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.media.file_comment import add_comment, as_metadata_file
from serve_app.media.png_zip import PngZip
from serve_app.media.video_encoding import LOG_PREFIX, VideoEncoding

if sys.platform == "linux":
    from fcntl import F_SETPIPE_SZ, fcntl


class VideoWriteError(RuntimeError):
    """The video could not be written; the message ends with the error of ffmpeg or of the system."""


class DiskFull(VideoWriteError):
    """The video could not be written, for there is no room for it now."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


_PIPE_BYTES = 2**20
"""Bytes that may wait for ffmpeg: Linux's most for an ordinary user, sixteen times its default."""
_PLAIN = VideoEncoding()
_QUIET = {"SVT_LOG": "1"}
"""Environment of ffmpeg: SVT-AV1 tells its settings as if they were errors."""


class VideoWriter:
    """A context manager that writes a video, as usual H.264 in MP4: yuv420p, BT.709, index in front.

    When the block ends without an error the file appears at ``path``, whole and synced. When the block ends
    by an error, ffmpeg is ended, no temp file is left and a file that was at ``path`` before is untouched.
    The folder must exist.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: float,
        encoding: VideoEncoding = _PLAIN,
        comment: str | None = None,
    ) -> None:
        """Check the arguments; ffmpeg starts with the block. Raises ``ValueError`` for odd sizes, which
        yuv420p cannot hold, and for bad rates. ``comment``: that of the file, as players show it.
        """
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise ValueError(f"a video's width and height must be even, not {width}x{height}")
        if not math.isfinite(fps) or fps <= 0:
            raise ValueError(f"a video's frame rate must be a number above 0, not {fps}")
        self.path = path.absolute()
        self.frames_written = 0
        self._size = width, height
        self._form = encoding.output.format
        self._shape = encoding.pixel_format.frame_shape(width, height)
        self._temp = durable.temp_beside(self.path)
        self._comment = comment
        # A file, since a command line is short on some systems and everybody's to read on most.
        has_metadata = comment is not None and self._form.codecs
        self._metadata = durable.temp_beside(self.path) if has_metadata else None
        self._pngs = PngZip(self._temp, comment) if encoding.is_pngs else None
        target = "pipe:1" if encoding.is_pngs else f"file:{self._temp}"
        self._command = _command(target, width, height, fps, encoding, self._metadata)
        self._environment = encoding.environment
        self._ffmpeg: subprocess.Popen[bytes] | None = None
        self._said: list[str] = []
        self._listener: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._metadata is not None and self._comment is not None:
            self._metadata.write_text(as_metadata_file(self._comment), encoding="utf-8")
        self._ffmpeg = subprocess.Popen(
            self._command,
            bufsize=0,  # frames go to the pipe as they are
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if self._pngs is None else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_QUIET, **self._environment},
            start_new_session=True,  # Ctrl-C is for the service, which may still finish this file
        )
        assert self._ffmpeg.stderr is not None
        _widen(self._pipe())
        # Read all the time: a full pipe would stop ffmpeg, and with it the writes that wait for ffmpeg.
        self._listener = threading.Thread(target=_listen, args=(self._ffmpeg.stderr, self._said), daemon=True)
        self._listener.start()
        if self._pngs is not None:
            assert self._ffmpeg.stdout is not None
            self._pngs.collect(self._ffmpeg.stdout)
        return self

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append ``frames``, uint8 ``[n, …]`` of the pixel format's shape. Blocks while ffmpeg is behind.

        Raises ``ValueError`` for another shape or type, ``VideoWriteError`` when ffmpeg has ended,
        ``ChildKilled`` when a signal has ended it.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._shape:
            wanted = ", ".join(map(str, self._shape))
            raise ValueError(f"frames must be uint8 [n, {wanted}], not {frames.dtype} {list(frames.shape)}")
        pipe = self._pipe()
        left = np.ascontiguousarray(frames).reshape(-1).data
        try:
            while left:
                left = left[pipe.write(left) :]
        except OSError:  # a broken pipe: the reason is what ffmpeg said
            raise self._failure(self._reap()) from None
        self.frames_written += len(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._reap(kill=True)
            self._temp.unlink(missing_ok=True)
            if self._metadata is not None:
                self._metadata.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self.frames_written == 0:
            raise VideoWriteError("The video has no frames.")
        exit_status = self._reap()
        if exit_status != 0:
            raise self._failure(exit_status)
        try:
            if self._pngs is not None:
                self._pngs.finish()
            elif self._comment is not None:
                width, height = self._size
                add_comment(self._temp, self._form, self._comment, width=width, height=height)
            durable.replace(self._temp, self.path)
        except OSError as error:
            raise of_system("The video could not be put in its place", error) from error

    def _reap(self, *, kill: bool = False) -> int:
        """End ffmpeg, by closing its input or by force, and return its exit status."""
        assert self._ffmpeg is not None and self._listener is not None
        if kill:
            self._ffmpeg.kill()
        with suppress(OSError):  # about bytes that ffmpeg no longer took; its exit status tells
            self._pipe().close()
        exit_status = self._ffmpeg.wait()
        self._listener.join()
        if self._pngs is not None:
            self._pngs.join()
        return exit_status

    def _pipe(self) -> IO[bytes]:
        if self._ffmpeg is None:
            raise RuntimeError("frames are written inside the writer's with block")
        assert self._ffmpeg.stdin is not None
        return self._ffmpeg.stdin

    def _failure(self, exit_status: int) -> VideoWriteError | ChildKilled:
        if exit_status == -signal.SIGXFSZ:
            return DiskFull("ffmpeg could not write the video: files are limited in size")
        if exit_status < 0:
            return ChildKilled(exit_status)
        reason = "; ".join(self._said) or f"it ended with status {exit_status}"
        reason = LOG_PREFIX.sub("", reason).replace(f"file:{self._temp}", "the file")
        kind = DiskFull if any(os.strerror(number) in reason for number in _FULL) else VideoWriteError
        return kind(f"ffmpeg could not write the video: {reason}")


def of_system(what: str, error: OSError) -> VideoWriteError:
    """Return the error of a video whose file the system refused; ``what`` begins its sentence."""
    kind = DiskFull if error.errno in _FULL else VideoWriteError
    return kind(f"{what}: {error.strerror or error}")


def _command(
    target: str, width: int, height: int, fps: float, encoding: VideoEncoding, metadata: Path | None
) -> Sequence[str]:
    described = (
        () if metadata is None else ("-f", "ffmetadata", "-i", f"file:{metadata}", "-map_metadata", "1")
    )
    return [
        ffmpeg_program(),
        *("-nostdin", "-hide_banner", "-nostats", "-loglevel", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", encoding.pixel_format, "-s", f"{width}x{height}"),
        *("-framerate", str(Fraction(fps).limit_denominator(1001)), "-i", "pipe:0"),
        *described,
        *encoding.arguments,
        target,
    ]


def _widen(pipe: IO[bytes]) -> None:
    """Let more than a frame's part wait in the pipe, where the system knows and allows that."""
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl(pipe, F_SETPIPE_SZ, _PIPE_BYTES)


def _listen(pipe: IO[Any], said: list[str]) -> None:
    with pipe:
        for line in pipe:
            # The first lines name the cause, the later ones what follows from it.
            if len(said) < 3 and (text := line.decode(errors="replace").strip()):
                said.append(text)
