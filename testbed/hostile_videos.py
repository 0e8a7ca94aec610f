"""Videos that are made to cost their reader time or memory, and a benign one of a large size."""

import random
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import imageio_ffmpeg

BENIGN = "benign.mp4"

_FTYP_BRANDS = b"isom\0\0\2\0isom"
_STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MOVED = (b"stsz", b"stts", b"stsc", b"ctts", b"stss", b"sgpd", b"sbgp")
_MIB = 2**20


def write_videos(folder: Path) -> Mapping[str, Path]:
    """Write the benign video and the hostile ones; return them by name."""
    plain = _encoded(folder / "plain.mp4", "testsrc2=s=96x64", 3)
    _encoded(folder / BENIGN, "testsrc2=s=3840x2160", 1)
    _encoded(folder / "large.mp4", "color=black:s=4096x4096", 1)  # 17 million pixels in 50 kB
    for name, data in {**_mp4s(plain), **_others()}.items():
        (folder / name).write_bytes(data)
    (folder / "plain.mp4").unlink()
    return {path.name: path for path in sorted(folder.iterdir())}


def _encoded(target: Path, source: str, frames: int) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", f"{source}:r=16"]
    codec = ("-c:v", "libx264", "-preset", "ultrafast")
    subprocess.run([*command, "-frames:v", str(frames), *codec, str(target)], check=True)
    return target.read_bytes()


def _mp4s(plain: bytes) -> Mapping[str, bytes]:
    """Return MP4s (ISO/IEC 14496-12, QuickTime) made of a plain one."""
    moov = dict(_boxes(plain))[b"moov"]
    trak = _box(b"trak", dict(_boxes(moov))[b"trak"])
    ftyp = _box(b"ftyp", _FTYP_BRANDS)
    packed = _box(b"dcom", b"zlib") + _box(
        b"cmvd", struct.pack(">I", 95 * _MIB) + zlib.compress(bytes(95 * _MIB), 1)
    )
    fragment = _box(
        b"moof",
        _box(
            b"traf", _box(b"tfhd", struct.pack(">II", 0, 1)) + _box(b"trun", struct.pack(">II", 0, 2**24 - 1))
        ),
    )
    several = _changed(plain, _STBL, lambda stbl: _with_samples(stbl, 2**20))
    heavy = _box(b"trak", dict(_boxes(dict(_boxes(several))[b"moov"]))[b"trak"])
    return {
        "many-tracks.mp4": _changed(plain, (b"moov",), lambda inner: inner + 5000 * trak),
        "all-samples.mp4": _changed(plain, _STBL, lambda stbl: _with_samples(stbl, 2**28)),
        "many-samples.mp4": _changed(several, (b"moov",), lambda inner: inner + 20 * heavy),
        "endless.mp4": _changed(plain, (*_STBL, b"stts"), lambda _: struct.pack(">IIII", 0, 1, 3, 2**30)),
        "packed.mp4": ftyp + _box(b"moov", _box(b"cmov", packed)),
        "fragments.mp4": plain + 20_000 * fragment,
        "boxes.mp4": ftyp + 200_000 * _box(b"free", b""),
    }


def _with_samples(stbl: bytes, count: int) -> bytes:
    """Return a sample table that says, in a few bytes, that there are so many samples."""
    rest = b"".join(_box(kind, content) for kind, content in _boxes(stbl) if kind not in _MOVED)
    sizes = _box(b"stsz", struct.pack(">III", 0, 1, count))
    times = _box(b"stts", struct.pack(">IIII", 0, 1, count, 1))
    return rest + sizes + times + _box(b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1))


def _others() -> Mapping[str, bytes]:
    """Return Matroska files (RFC 9559), a GIF, and what is no video."""
    head = _element(b"\x1a\x45\xdf\xa3", _element(b"\x42\x82", b"webm"))
    segment = b"\x18\x53\x80\x67\xff"  # of unknown size
    tags, tag, simple = b"\x12\x54\xc3\x67", b"\x73\x73", b"\x67\xc8"
    deep = b""
    for _ in range(2000):
        deep = _element(simple, deep)
    short = simple + b"\x88\x45\xa3\x81A\x44\x87\x81x"  # with sizes of one byte
    block = _element(b"\x1f\x43\xb6\x75", _element(b"\xe7", b"\0"), _element(b"\xa3", b"\x81\0\0\x80x"))
    return {
        "many-tracks.webm": head + segment + _element(b"\x16\x54\xae\x6b", *map(_track, range(1, 5001))),
        "large-tracks.webm": head + segment + _element(b"\x16\x54\xae\x6b", *map(_track, range(1, 900))),
        "deep.webm": head + segment + _element(tags, _element(tag, deep)),
        "tags.webm": head + segment + _element(tags, _element(tag, short * 400_000)),
        "clusters.webm": head + segment + _element(b"\x16\x54\xae\x6b", _track(1)) + block * 100_000,
        "voids.webm": head + segment + b"\xec\x80" * 2 * _MIB,
        "screen.gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\xff" + bytes(256) + b";",
        "noise.mp4": b"\0\0\0\x18ftyp" + random.Random(1).randbytes(_MIB),
        "zip.mp4": b"PK\3\4" + bytes(_MIB),
    }


def _track(number: int) -> bytes:
    """Return a video track of 4096x2048 pixels."""
    size = _element(b"\xb0", struct.pack(">H", 4096)) + _element(b"\xba", struct.pack(">H", 2048))
    parts = ((b"\xd7", struct.pack(">H", number)), (b"\x83", b"\1"), (b"\x86", b"V_VP9"), (b"\xe0", size))
    return _element(b"\xae", *(_element(kind, content) for kind, content in parts))


def _element(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return kind + (1 << 56 | len(content)).to_bytes(8) + content


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each box of a sound file."""
    begin = 0
    while begin < len(data):
        end = begin + int.from_bytes(data[begin : begin + 4])
        yield data[begin + 4 : begin + 8], data[begin + 8 : end]
        begin = end


def _changed(data: bytes, path: Sequence[bytes], change: Callable[[bytes], bytes]) -> bytes:
    """Return the boxes with the content changed of the one that the path leads to."""
    if not path:
        return change(data)
    return b"".join(
        _box(kind, _changed(content, path[1:], change) if kind == path[0] else content)
        for kind, content in _boxes(data)
    )
