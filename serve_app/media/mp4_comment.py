"""The comment of an MP4 file: written by ffmpeg, and read from the file's boxes (ISO/IEC 14496-12)."""

from collections.abc import Iterator

_COMMENT = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
"""The path of the boxes that lead to a comment, as iTunes and ffmpeg write it."""

_HEADS = {b"meta": 4}
"""Bytes before the inner boxes of a box, where there are any: version and flags."""

_DATA_HEAD = 8  # the kind of the value and its language
_MAX_BOXES = 1000


def comment_in_mp4(video: bytes) -> bytes | None:
    """Return a file's comment, None if it has none or is no MP4. Never raises."""
    begin, end = 0, len(video)
    for name in _COMMENT:
        found = next((span for kind, *span in _boxes(video, begin, end) if kind == name), None)
        if found is None:
            return None
        begin, end = found[0] + _HEADS.get(name, 0), found[1]
    return video[begin + _DATA_HEAD : end]


def _boxes(video: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, and begin and end of the content, of each box between two places.

    A box that does not end before ``end`` is yielded as if it did: of a cut file as much as there is.
    """
    for _ in range(_MAX_BOXES):
        if end - begin < 8:
            return
        size, head = int.from_bytes(video[begin : begin + 4]), 8
        if size == 1:  # the size is a long one, after the kind
            size, head = int.from_bytes(video[begin + 8 : begin + 16]), 16
        elif size == 0:  # to the end
            size = end - begin
        if size < head:
            return
        yield video[begin + 4 : begin + 8], begin + head, min(begin + size, end)
        begin += size
