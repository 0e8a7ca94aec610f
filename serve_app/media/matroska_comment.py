"""The comment of a WebM or Matroska file: a tag that ffmpeg writes, read from the elements (RFC 9559)."""

from collections.abc import Iterator

_SEGMENT = 0x18538067
_TAGS, _TAG, _SIMPLE_TAG = 0x1254C367, 0x7373, 0x67C8
_TAG_NAME, _TAG_STRING = 0x45A3, 0x4487
_COMMENT = b"COMMENT"

_MAX_ELEMENTS = 20_000
"""Elements that are looked at in a file: a frame's is none of them, a cluster's is."""


def comment_in_matroska(video: bytes) -> bytes | None:
    """Return a file's comment, None if it has none. Never raises."""
    left = iter(range(_MAX_ELEMENTS))  # shared, so that nested elements multiply nothing
    spans = [(0, len(video))]
    for wanted in (_SEGMENT, _TAGS, _TAG, _SIMPLE_TAG):
        spans = [
            (begin, end)
            for span in spans
            for kind, begin, end in _elements(video, *span, left)
            if kind == wanted
        ]
    for span in spans:
        parts = {kind: video[begin:end] for kind, begin, end in _elements(video, *span, left)}
        if parts.get(_TAG_NAME, b"").upper() == _COMMENT:
            return parts.get(_TAG_STRING)
    return None


def _elements(video: bytes, begin: int, end: int, left: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the id, and begin and end of the content, of each element between two places.

    One that does not end before ``end``, or does not know its size, is yielded as if it did.
    """
    for _ in left:
        id_bytes = _length_at(video, begin, end, most=4)
        size_bytes = _length_at(video, begin + id_bytes, end, most=8)
        if not id_bytes or not size_bytes:
            return
        kind = int.from_bytes(video[begin : begin + id_bytes])
        begin += id_bytes
        unknown = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(video[begin : begin + size_bytes]) & unknown
        begin += size_bytes
        after = end if size == unknown else min(begin + size, end)
        yield kind, begin, after
        begin = after


def _length_at(video: bytes, place: int, end: int, *, most: int) -> int:
    """Return the number of bytes of the number of variable length at a place; 0 if there is none."""
    if place >= end or not video[place]:
        return 0
    length = 9 - video[place].bit_length()
    return length if length <= most and place + length <= end else 0
