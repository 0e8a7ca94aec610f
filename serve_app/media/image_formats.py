"""Names of file formats, by a file's first bytes: what is read, and what a refusal calls the others."""

import struct

ADVICE = "send JPEG, PNG, WebP, AVIF or HEIC"

_READ = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

_OTHERS = {
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL picture",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 picture",
    b"8BPS\0\x01": "a Photoshop file",
    b"%PDF-": "a PDF file",
    b"<svg": "an SVG drawing",
}

_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Lengths of the header behind a BMP file's first 14 bytes. ``BM`` alone may begin any text."""

_AVIF = frozenset((b"avif", b"avis"))
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_HEIF = frozenset((b"mif1", b"mif2", b"msf1"))
"""Brands of ISO base media files (ISO/IEC 23008-12, annex B; AV1 Image File Format, section 6). ``mif1`` says
only that the file holds pictures; the other brands beside it say of which codec.
"""

_MAX_BRAND_BYTES = 256


def is_read(data: bytes) -> bool:
    """Return whether ``data`` begins as a JPEG, PNG or WebP file."""
    return data.startswith(_READ) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def is_heif(data: bytes) -> bool:
    """Whether ``data`` begins as an AVIF, HEIC or other HEIF file, by its brands."""
    return data[4:8] == b"ftyp" and bool(_brands(data) & (_AVIF | _HEIC | _HEIF))


def name_of(data: bytes) -> str | None:
    """Name the format of ``data`` with its article, such as "a HEIC picture"; None for an unknown one."""
    for start, name in _OTHERS.items():
        if data.startswith(start):
            return name
    if data.startswith(b"BM") and data[14:18] in (struct.pack("<I", length) for length in _BMP_HEADERS):
        return "a BMP picture"
    return "an MP4 or QuickTime file" if data[4:8] == b"ftyp" else None


def _brands(data: bytes) -> frozenset[bytes]:
    """Return the major brand and the compatible ones of a file that begins with an ``ftyp`` box."""
    box = data[: min(int.from_bytes(data[:4]), _MAX_BRAND_BYTES)]
    return frozenset(box[at : at + 4] for at in (8, *range(16, len(box) - 3, 4)))
