"""A download into a file, which can go on where it broke."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

import httpx


class Download:
    """A file that grows beside its place, and is moved there once it is whole."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises ``OSError``."""
        self._path = path
        self._part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
        self._file: IO[bytes] = self._part.open("wb")
        self._tag: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    @property
    def headers(self) -> Mapping[str, str]:
        """What the next request sends to get the rest of the same file."""
        stored = self._file.tell()
        if not stored or self._tag is None:
            return {}
        return {"Range": f"bytes={stored}-", "If-Range": self._tag}

    def begin(self, answer: httpx.Response) -> None:
        """Take an answer's bytes: the rest of the file, or all of it anew."""
        self._tag = answer.headers.get("etag")
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            self._file.seek(0)
            self._file.truncate()

    def write(self, part: bytes) -> None:
        """Add bytes."""
        self._file.write(part)

    def finish(self) -> Path:
        """Move the file to its place and return that."""
        self._file.close()
        return self._part.replace(self._path)
