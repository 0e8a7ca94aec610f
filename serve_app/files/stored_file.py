"""A stored file that is to be sent: its size and age, and its bytes from any place on."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 512 * 1024  # each chunk is a message between processes


class StoredFile(Protocol):
    """A finished file, which never changes."""

    @property
    def name(self) -> str:
        """Its name without folders, with the suffix of its format."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def modified_at(self) -> float:
        """When it was stored, in seconds since the epoch."""

    @property
    def tag(self) -> str:
        """Its entity tag, without quotes."""

    def chunks(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from ``begin`` to before ``end``. Blocks.

        Raises ``OSError``, ``FileNotFound``, ``StoreUnavailable``.
        """

    def link(self, *, disposition: str, media_type: str) -> str | None:
        """Return where the client itself may get the file for some minutes; None: from the service alone.

        ``disposition``: the ``Content-Disposition`` that it is sent with there.
        """


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file in a folder of the service."""

    path: Path
    size: int
    modified_at: float

    @classmethod
    def of(cls, path: Path) -> "DiskFile":
        """Measure the file at ``path``. Raises ``OSError``."""
        found = os.stat(path)
        return cls(path, found.st_size, found.st_mtime)

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.name

    @property
    def tag(self) -> str:
        """Its entity tag, of its age and size."""
        return hashlib.md5(f"{self.modified_at}-{self.size}".encode(), usedforsecurity=False).hexdigest()

    def chunks(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from ``begin`` to before ``end``. Raises ``OSError``."""
        with self.path.open("rb") as file:
            file.seek(begin)
            while begin < end and (chunk := file.read(min(CHUNK_BYTES, end - begin))):
                begin += len(chunk)
                yield chunk

    def link(self, *, disposition: str, media_type: str) -> str | None:
        """Return None: a folder is not to be reached from elsewhere."""
        del disposition, media_type
        return None
