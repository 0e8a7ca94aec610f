"""Decoding of clients' videos by ffmpeg, in a child process of bounded memory and time.

Only what a file itself holds is read: ffmpeg gets an open file and no name, may open nothing else, and is
told the container, so a playlist is never followed. A video is measured first; then the frames that a task
needs are written to a lossless file of the task's size and frame rate.
"""

import math
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import TooLarge, VideoUnreadable
from serve_app.media.child_killed import ChildKilled
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.media.image_formats import is_heif
from serve_app.media.limited_ffmpeg import run_limited
from serve_app.media.source_video import SourceVideo

_BASE_BYTES = 320 * 2**20
"""Address space of ffmpeg without a video; most is never touched."""
_BYTES_PER_PIXEL = 32
"""For a codec's reference frames and what is decoded ahead, at 1.5 to 4 bytes each."""
_BYTES_PER_MADE_PIXEL = 160
"""For a few frames of the size to make, and for the packet that the encoder reserves, 64 bytes of these."""
_PACKET_BYTES_PER_PIXEL = 80
_SMALL_BYTES = 32 * 2**20
"""For what ffmpeg allocates in one piece whatever the video's size, a compressed frame among it."""
_PADDING = 64
_LEAST_PIXELS = 2**16
"""What a video may have in any case: the decoder of MPEG-4 takes more than it shows, of a small one."""
_MAX_FPS = 120
"""Frames a second of a source, up to which a task gets all that it needs."""

_MEASURE_BASE_BYTES = 256 * 2**20
_MEASURE_BYTES_PER_PIXEL = 8
"""Of one frame, and nothing ahead. Of the whole about 160 MiB are never touched, so that what makes ffmpeg
take all it may holds less than 200 MB.
"""
_MEASURE_S = 0.7
"""Seconds of a processor to look at a file, up to a video of 4K, whose first frame takes a tenth of them, of
the slower codecs: what is made to be slow is refused within a second.
"""
_MEASURE_PIXELS = 10**7
"""Pixels of a frame, beyond which there is as much again for each further time as many."""
_CONFORM_CPU_S = 60
_SAID_BYTES = 2**20
_END_MARGIN_S = 0.25
"""Seconds by which the end of a video may be later than its last packet says, where frames are reordered."""

_CONTAINERS = "mov,matroska,gif"
_CODECS = "h264,hevc,vp8,vp9,libdav1d,mpeg4,mjpeg,prores,gif,ffv1"
_DIMENSIONS = re.compile(rb"^#dimensions 0: (\d{1,6})x(\d{1,6})$", re.MULTILINE)
_DURATION = re.compile(rb"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)
_FPS = re.compile(rb"^  Stream #0:\d+.*: Video: .*, (\d{1,3}(?:\.\d+)?) fps\b", re.MULTILINE)
_TIME_DONE = re.compile(rb"^out_time_us=(\d+)", re.MULTILINE)
_FRAMES_DONE = re.compile(rb"^frame= *(\d+)", re.MULTILINE)
_DAMAGED = "The video is damaged or incomplete, or of a codec that is not read."


def container_of(data: bytes) -> str | None:
    """Return ffmpeg's name of the container that ``data`` begins as, None for one that is not read."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    return "gif" if data.startswith((b"GIF87a", b"GIF89a")) else None


def is_video(data: bytes) -> bool:
    """Return whether ``data`` begins as a video that is read; a GIF, which may be a picture, does not."""
    return container_of(data) in ("mov", "matroska") and not is_heif(data)


def measure(data: bytes | Path, *, max_pixels: int, max_s: float) -> SourceVideo:
    """Return the video in a file, with the size of its first frame, upright.

    Raises ``TooLarge`` for one whose header says that it is longer than ``max_s`` seconds, and
    ``VideoUnreadable`` for all else, more pixels than ``max_pixels`` among it. A header may lie about the
    length: ``conform`` reads no more than it needs in any case. Like all here raises ``FfmpegKilled``.
    """
    with _opened(data) as file, tempfile.TemporaryFile() as said:
        container = container_of(file.read(16))
        file.seek(0)
        if container is None:
            raise VideoUnreadable("The video is no MP4, MOV, WebM, Matroska or GIF file.")
        done = run_limited(
            [*_brief_input(container, max_pixels, "info"), "-frames:v", "1", "-f", "framecrc", "pipe:1"],
            file,
            said,
            limit_bytes=_MEASURE_BASE_BYTES + _MEASURE_BYTES_PER_PIXEL * max_pixels,
            cpu_s=_measure_s(max_pixels),
        )
        said.seek(0)
        header = said.read(_SAID_BYTES)
    duration, fps = _DURATION.search(header), _FPS.search(header)
    seconds = None
    if duration is not None:
        seconds = 3600 * int(duration[1]) + 60 * int(duration[2]) + float(duration[3])
        if seconds > max_s:
            raise TooLarge(f"The video is longer than {max_s:g} s; send a shorter one.")
    size = _DIMENSIONS.search(done or b"")
    if size is None:
        raise VideoUnreadable(_DAMAGED)
    return SourceVideo(
        data, container, int(size[1]), int(size[2]), seconds, None if fps is None else float(fps[1])
    )


def conform(
    video: SourceVideo, target: Path, *, width: int, height: int, fps: int, frames: int, is_mask: bool
) -> int:
    """Write at most ``frames`` of the video, scaled to cover the size and cropped, losslessly to ``target``.

    A mask becomes gray, 0 or 255, and keeps its last frame to the end. Returns the number of frames. Raises
    ``VideoUnreadable``.
    """
    filters = _filters(width, height, fps, frames, is_mask)
    with _opened(video.data) as file:
        return _store(video, file, target, filters, (width, height), frames, is_mask=is_mask)


def conform_end(
    video: SourceVideo, target: Path, *, width: int, height: int, fps: int, frames: int, max_s: float
) -> int:
    """Write the last ``frames`` of the video as ``conform`` does, and a few more in front of them.

    The end is where the last packet is, whatever the header says. Returns the number of frames, which is
    less than ``frames`` for a shorter video. Raises ``TooLarge`` for one of more than ``max_s`` seconds,
    ``VideoUnreadable``.
    """
    with _opened(video.data) as file:
        end_s = _last_packet_s(video, file)
        if end_s > max_s:
            raise TooLarge(f"The video is longer than {max_s:g} s; send a shorter one.")
        # Of the last packet the time is known, not what is left to show, nor when a frame is decoded.
        window_s = frames / fps + 2 / (video.fps or 1) + _END_MARGIN_S
        most = math.ceil(2 * window_s * fps) + frames
        filters = _filters(width, height, fps, most, is_mask=False)
        file.seek(0)
        count = _store(video, file, target, filters, (width, height), most, begin_s=max(end_s - window_s, 0))
    if count == most:  # what was sought was not found, and this is no end
        raise VideoUnreadable(_DAMAGED)
    return count


def _last_packet_s(video: SourceVideo, file: IO[bytes]) -> float:
    """Return when an open video's last packet is, in seconds from its begin. Raises ``VideoUnreadable``."""
    coded = _coded(video)
    with tempfile.TemporaryFile() as said:
        done = run_limited(
            [
                *_brief_input(video.container, coded, "quiet"),
                *("-c", "copy", "-progress", "pipe:1", "-f", "null", "-"),
            ],
            file,
            said,
            limit_bytes=_MEASURE_BASE_BYTES + _MEASURE_BYTES_PER_PIXEL * coded,
            cpu_s=_measure_s(coded),
        )
    times = _TIME_DONE.findall(done or b"")
    if not times:
        raise VideoUnreadable(_DAMAGED)
    return int(times[-1]) / 1e6


def _store(
    video: SourceVideo,
    file: IO[bytes],
    target: Path,
    filters: str,
    size: tuple[int, int],
    most: int,
    *,
    is_mask: bool = False,
    begin_s: float = 0,
) -> int:
    """Write at most so many frames of an open video, losslessly; return how many there are.

    ``size``: width and height that ``filters`` give them. Raises ``VideoUnreadable`` if there are none.
    """
    coded, pixels = _coded(video), size[0] * size[1]
    made_bytes = _PACKET_BYTES_PER_PIXEL * pixels
    with tempfile.TemporaryFile() as said:
        done = run_limited(
            [
                *_input(video.container, coded, "quiet", made_bytes=made_bytes, begin_s=begin_s),
                *("-progress", "pipe:1", "-frames:v", str(most), "-vf", filters),
                *("-pix_fmt", "gray" if is_mask else "bgr0"),
                *("-c:v", "ffv1", "-level", "3", "-g", "1", "-slices", "4", "-threads", "1"),
                *("-map_metadata", "-1", "-map_chapters", "-1", "-f", "matroska", "-y", f"file:{target}"),
            ],
            file,
            said,
            limit_bytes=_BASE_BYTES + _BYTES_PER_PIXEL * coded + _BYTES_PER_MADE_PIXEL * pixels,
            cpu_s=_CONFORM_CPU_S,
        )
    counts = _FRAMES_DONE.findall(done or b"")
    if not counts or not int(counts[-1]):
        raise VideoUnreadable(_DAMAGED)
    return int(counts[-1])


def read_clip(path: Path, shape: tuple[int, int, int], *, is_mask: bool) -> NDArray[np.uint8]:
    """Read what ``conform`` wrote, of ``shape``: frames, height and width. Trusts the file.

    Returns ``[n, height, width, 3]``, a mask ``[n, height, width]``. Raises ``RuntimeError`` for too few
    frames, ``ChildKilled`` where a signal ended ffmpeg.
    """
    found = np.empty(shape if is_mask else (*shape, 3), np.uint8)
    command = [
        *(ffmpeg_program(), "-nostdin", "-v", "error", "-protocol_whitelist", "file"),
        *("-f", "matroska", "-i", f"file:{path}", "-frames:v", str(shape[0])),
        *("-pix_fmt", "gray" if is_mask else "rgb24", "-f", "rawvideo", "pipe:1"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ffmpeg:
        assert ffmpeg.stdout is not None
        left = found.reshape(-1).data
        while left and (count := ffmpeg.stdout.readinto(left)):  # type: ignore[attr-defined]
            left = left[count:]
    if left and ffmpeg.returncode < 0:
        raise ChildKilled(ffmpeg.returncode)
    if left:
        raise RuntimeError(f"a stored video has not the {shape[0]} frames that it was stored with")
    return found


@contextmanager
def _opened(data: bytes | Path) -> Iterator[IO[bytes]]:
    """Open a video as a file of no name; an index may stand behind what it points to.

    Unbuffered, so that ffmpeg reads from where this process left off.
    """
    if isinstance(data, Path):
        with data.open("rb", buffering=0) as file:
            yield file
        return
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        yield file


def _coded(video: SourceVideo) -> int:
    """Return the most pixels of a decoded frame, with what a codec adds at the edges."""
    return max((video.width + _PADDING) * (video.height + _PADDING), _LEAST_PIXELS)


def _input(
    container: str, max_pixels: int, said: str, *, made_bytes: int = 0, begin_s: float = 0
) -> Sequence[str]:
    return [
        *(ffmpeg_program(), "-nostdin", "-hide_banner", "-nostats", "-v", said),
        *("-max_alloc", str(_SMALL_BYTES + 8 * max_pixels + made_bytes), "-filter_threads", "1"),
        # of the input: nothing but the open file is read, and no file that it names
        *("-protocol_whitelist", "fd", "-format_whitelist", _CONTAINERS, "-codec_whitelist", _CODECS),
        *("-max_pixels", str(max_pixels), "-threads", "1", "-f", container),
        *(("-ss", f"{begin_s:.3f}") if begin_s else ()),
        *("-i", "fd:", "-map", "0:v:0"),
    ]


def _brief_input(container: str, max_pixels: int, said: str) -> Sequence[str]:
    """Return the input of which little is wanted: of its frames the decoder reads the first, in haste."""
    ffmpeg, *arguments = _input(container, max_pixels, said)
    return [ffmpeg, "-skip_frame", "nokey", "-skip_loop_filter", "all", *arguments]


def _measure_s(pixels: int) -> float:
    """Return the seconds of a processor that a frame of so many pixels may take to be looked at."""
    return _MEASURE_S * (1 + pixels // _MEASURE_PIXELS)


def _filters(width: int, height: int, fps: int, frames: int, is_mask: bool) -> str:
    # Cut before scaling: a video one pixel high would otherwise grow by millions of columns.
    cut = (
        rf"crop=w=max(1\,min(iw\,ih*{width}/{height})):h=max(1\,min(ih\,iw*{height}/{width})),"
        f"scale={width}:{height}:flags={'neighbor' if is_mask else 'lanczos'},setsar=1"
    )
    # A source frame is decoded at most once, so as many as the source can have in that time are enough.
    most = frames * max(_MAX_FPS // fps, 1) + _MAX_FPS
    chain = f"trim=end_frame={most},fps={fps},{cut}"
    if not is_mask:
        return chain
    return rf"{chain},format=gray,lut=c0=if(gte(val\,128)\,255\,0),tpad=stop_mode=clone:stop={frames}"
