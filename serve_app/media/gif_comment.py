"""The comment of a GIF: an extension block in front of the first picture (GIF89a, sections 15, 24 and 26)."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from serve_app.files import durable

_HEAD = 13  # signature and logical screen descriptor
_EXTENSION, _APPLICATION, _COMMENT = b"\x21", b"\xff", b"\xfe"
_BLOCK_BYTES = 255
_MAX_BLOCKS = 4000
_FRONT_BYTES = 2**16
"""Bytes at a file's begin that hold what ffmpeg writes in front of the first picture."""


def comment_in_gif(video: bytes) -> bytes | None:
    """Return the comment in front of a file's first picture, None if there is none. Never raises."""
    return next((content for label, content, _ in _extensions(video) if label == _COMMENT), None)


def add_gif_comment(path: Path, comment: bytes) -> None:
    """Put a comment into a file. Raises ``OSError``."""
    blocks = [comment[at : at + _BLOCK_BYTES] for at in range(0, len(comment), _BLOCK_BYTES)]
    extension = _EXTENSION + _COMMENT + b"".join(bytes((len(block),)) + block for block in (*blocks, b""))
    temp = durable.temp_beside(path)
    try:
        with path.open("rb") as source, temp.open("wb") as target:
            front = source.read(_FRONT_BYTES)
            # Behind the number of rounds, which some players look for in front of all else.
            ends = (end for label, _, end in _extensions(front) if label == _APPLICATION)
            place = max(ends, default=_colours_end(front))
            target.write(front[:place] + extension + front[place:])
            shutil.copyfileobj(source, target)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def _extensions(video: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the label, the content and the end of each extension in front of the first picture."""
    place = _colours_end(video)
    left = iter(range(_MAX_BLOCKS))
    for _ in left:
        if video[place : place + 1] != _EXTENSION:
            return
        label, content = video[place + 1 : place + 2], []
        place += 2
        for _ in left:
            size = int.from_bytes(video[place : place + 1])
            content.append(video[place + 1 : place + 1 + size])
            place += 1 + size
            if not size:
                yield label, b"".join(content), place
                break


def _colours_end(video: bytes) -> int:
    """Return where the global table of colours ends."""
    packed = int.from_bytes(video[10:11])
    return _HEAD + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
