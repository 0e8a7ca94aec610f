"""A ZIP file of a video's frames: PNGs, numbered from 00001, as ffmpeg sends them one after the other."""

import io
import struct
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

SETTINGS = "settings.json"
"""Name of the entry with the settings that the video was made with, the first one."""

_LOCAL_HEAD = struct.Struct("<4s2xHH8xII2H")  # APPNOTE 4.3.7: signature, flags, method, sizes, lengths
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_READ_BYTES = 2**18
_TIME = (1980, 1, 1, 0, 0, 0)  # none: the same frames give the same bytes


class PngZip:
    """Writer of such a file, in a thread of its own."""

    def __init__(self, path: Path, settings: str | None) -> None:
        """``settings``: JSON to be put beside the frames."""
        self._path = path
        self._settings = settings
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def collect(self, pipe: IO[bytes]) -> None:
        """Begin to take the PNGs from a pipe without a buffer, up to its end."""
        pngs = io.BufferedReader(cast(io.RawIOBase, pipe), _READ_BYTES)
        self._thread = threading.Thread(target=self._collect, args=(pngs,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the pipe."""
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """Raise ``OSError`` if the file could not be written."""
        if self._error is not None:
            raise self._error

    def _collect(self, pngs: io.BufferedReader) -> None:
        with pngs:
            try:
                with zipfile.ZipFile(self._path, "w") as packed:
                    if self._settings is not None:
                        packed.writestr(zipfile.ZipInfo(SETTINGS, _TIME), self._settings)
                    for number, png in enumerate(_single(pngs), 1):
                        packed.writestr(zipfile.ZipInfo(f"{number:05d}.png", _TIME), png)
            except OSError as error:
                self._error = error
                while pngs.read(_READ_BYTES):  # else ffmpeg would wait for ever
                    pass


def settings_in_zip(data: bytes) -> bytes | None:
    """Return the settings in front of a file's frames, None if there are none. Never raises."""
    if len(data) < _LOCAL_HEAD.size:
        return None
    signature, flags, method, size, whole_size, name_bytes, more_bytes = _LOCAL_HEAD.unpack_from(data)
    name_end = _LOCAL_HEAD.size + name_bytes
    named = data[_LOCAL_HEAD.size : name_end] == SETTINGS.encode()
    # Stored as it is, with its size in front: nothing is unpacked.
    if signature != b"PK\3\4" or not named or flags & 0x09 or method or size != whole_size:
        return None
    begin = name_end + more_bytes
    return data[begin : begin + size]


def frames_in(path: Path, chosen: slice) -> Sequence[bytes]:
    """Return some of a file's frames, as PNGs. Raises ``OSError``, ``zipfile.BadZipFile``."""
    with zipfile.ZipFile(path) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".png"))
        return [packed.read(name) for name in names[chosen]]


def _single(pngs: io.BufferedReader) -> Iterator[bytes]:
    """Yield each PNG of a stream of them; drop one that was cut off."""
    while pngs.read(len(_SIGNATURE)) == _SIGNATURE:
        parts = [_SIGNATURE]
        while True:
            head = pngs.read(8)  # a chunk's length and type; its checksum follows
            body = pngs.read(int.from_bytes(head[:4]) + 4)
            parts += head, body
            if len(head) < 8 or len(body) < int.from_bytes(head[:4]) + 4:
                return
            if head[4:] == b"IEND":
                break
        yield b"".join(parts)
