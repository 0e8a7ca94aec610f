"""The comment of a WebP file: the description in its XMP chunk (RFC 9649, section 2.7; ISO 16684-1)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape, unescape

_HEAD = 12  # RIFF, the size of the rest, WEBP
_MAX_CHUNKS = 5000
_HAS_XMP = 0x04
_MAX_XMP_BYTES = 1_000_000
_XMP = """\
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>\
<rdf:li xml:lang="x-default">{comment}</rdf:li>\
</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"""
_DESCRIPTION = re.compile(rb"<dc:description>\s*<rdf:Alt>\s*<rdf:li[^>]*>([^<]*)</rdf:li>")


def comment_in_webp(video: bytes) -> bytes | None:
    """Return a file's description, None if it has none. Never raises."""
    for kind, begin, end in _chunks(video):
        if kind == b"XMP " and end - begin <= _MAX_XMP_BYTES:
            found = _DESCRIPTION.search(video[begin:end])
            return None if found is None else unescape(found[1].decode(errors="replace")).encode()
    return None


def add_webp_comment(path: Path, comment: str, *, width: int, height: int) -> None:
    """Put a description into a file of that size in pixels, without transparency. Raises ``OSError``."""
    with path.open("r+b") as file:
        _mark(file, width, height)
        file.seek(0, 2)
        file.write(_chunk(b"XMP ", _XMP.format(comment=escape(comment)).encode()))
        end = file.tell()
        file.seek(4)
        file.write((end - 8).to_bytes(4, "little"))


def _mark(file: IO[bytes], width: int, height: int) -> None:
    """Say in the file's head that there is XMP; a file of one still picture gets a head for that."""
    front = file.read(_HEAD + 9)
    if front[_HEAD : _HEAD + 4] == b"VP8X":
        file.seek(_HEAD + 8)
        file.write(bytes((front[-1] | _HAS_XMP,)))
        return
    still = front[_HEAD:] + file.read()
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    file.seek(_HEAD)
    file.write(_chunk(b"VP8X", bytes((_HAS_XMP, 0, 0, 0)) + size) + still)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)


def _chunks(video: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, and begin and end of the content, of each chunk."""
    place = _HEAD
    for _ in range(_MAX_CHUNKS):
        begin = place + 8
        if begin > len(video):
            return
        size = int.from_bytes(video[place + 4 : begin], "little")
        yield video[place : place + 4], begin, min(begin + size, len(video))
        place = begin + size + size % 2
