"""Decoding of untrusted AVIF and HEIC pictures by ffmpeg, in a child process of bounded memory and time.

Not by Pillow: the size in a file's header does not bind its AVIF decoder. A file of 1 kB whose header said
40x24 was seen to decode the 64 million pixels of its AV1 stream, and to scale them down.
"""

import re
import subprocess
import tempfile

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ImageUnreadable, TooLarge
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.media.limited_ffmpeg import run_limited

_CPU_S = 30
_BASE_BYTES = 320 * 2**20
"""Address space of ffmpeg without a picture, with a thread for each of many tiles; most is never touched."""
_BYTES_PER_PIXEL = 16
"""For the decoded picture, its tiles and its copy in RGB, with up to 16 bits a channel in the first two."""
_SMALL_BYTES = 32 * 2**20
"""For what ffmpeg allocates in one piece whatever the picture's size, the compressed picture among it."""
_PADDING = 64

# ISO/IEC 23008-12, 6.5.3: the box ``ispe`` has a version, flags, the width and the height.
_DECLARED_SIZE = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)
# ISO/IEC 23008-12, 6.5.8: the kinds of an auxiliary picture that is an alpha plane, of any codec and of HEVC.
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_HEADER = re.compile(rb"P7\nWIDTH (\d+)\nHEIGHT (\d+)\nDEPTH ([34])\nMAXVAL 255\nTUPLTYPE \w+\nENDHDR\n")
_LONGEST_HEADER = 200


def declared_pixels(data: bytes) -> int:
    """Return the pixels of the largest picture that the header of an AVIF or HEIC file tells of."""
    return max((width * height for width, height in _declared_sizes(data)), default=0)


def decode_heif(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode the main picture in ``data``, upright: ``[height, width, 3]``, or 4 with an alpha channel.

    Of an animation that is the first frame. Raises ``TooLarge`` if the header says more than ``max_pixels``,
    ``ImageUnreadable`` for all else, and ``FfmpegKilled`` for what is not the picture's fault.
    """
    sizes = _declared_sizes(data)
    if any(width * height > max_pixels for width, height in sizes):
        raise TooLarge(f"The image has more than {max_pixels} pixels; send a smaller one.")
    # No part may be decoded to more pixels than the largest says it has, but for the codec's own padding.
    most_decoded = max(((width + _PADDING) * (height + _PADDING) for width, height in sizes), default=1)
    has_alpha = any(kind in data for kind in _ALPHA)
    with tempfile.TemporaryFile() as file:  # an index may stand behind what it points to
        file.write(data)
        file.seek(0)
        pam = run_limited(
            _command(most_decoded, has_alpha),
            file,
            subprocess.DEVNULL,
            limit_bytes=_BASE_BYTES + _BYTES_PER_PIXEL * most_decoded,
            cpu_s=_CPU_S,
        )
    if pam is None:
        raise _unreadable(has_alpha)
    return _pixels(pam, max_pixels, has_alpha)


def _declared_sizes(data: bytes) -> list[tuple[int, int]]:
    return [(int.from_bytes(width), int.from_bytes(height)) for width, height in _DECLARED_SIZE.findall(data)]


def _command(most_decoded: int, has_alpha: bool) -> list[str]:
    both = "[0:v:0][0:v:1]alphamerge,format=rgba"
    return [
        *(ffmpeg_program(), "-nostdin", "-v", "quiet"),
        *(
            "-max_alloc",
            str(_SMALL_BYTES + 8 * most_decoded),
            "-filter_threads",
            "1",
            "-filter_complex_threads",
            "1",
        ),
        # of the input: nothing but these pictures is opened, and no file that they name
        *("-protocol_whitelist", "fd", "-format_whitelist", "mov", "-codec_whitelist", "libdav1d,hevc"),
        *("-max_pixels", str(most_decoded), "-threads", "1", "-f", "mov", "-i", "fd:"),
        *(("-filter_complex", both) if has_alpha else ("-pix_fmt", "rgb24")),
        *("-frames:v", "1", "-c:v", "pam", "-threads", "1", "-f", "image2pipe", "pipe:1"),
    ]


def _pixels(pam: bytes, max_pixels: int, has_alpha: bool) -> NDArray[np.uint8]:
    header = _HEADER.match(pam[:_LONGEST_HEADER])
    if header is None:
        raise _unreadable(has_alpha)
    width, height, depth = map(int, header.groups())
    if width * height > max_pixels or len(pam) != header.end() + width * height * depth:
        raise _unreadable(has_alpha)
    return np.frombuffer(pam, np.uint8, offset=header.end()).reshape(height, width, depth)


def _unreadable(has_alpha: bool) -> ImageUnreadable:
    kind = "a transparent" if has_alpha else "an"
    return ImageUnreadable(
        f"The image is {kind} AVIF or HEIC picture that is damaged or cannot be decoded; send JPEG or PNG."
    )
