"""File intake: every form in which the API takes a file that is no upload, read to its bytes."""

import asyncio
import base64
import binascii
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from serve_app.errors import ImageUnreadable, InvalidField, PathForbidden, ServiceError, TooLarge
from serve_app.media.url_fetch import UrlFetch

MAX_PATH_CHARS = 4096

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE_NAME = re.compile(
    r"\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|svg|pdf|heic|heif|avif|jxl|mp4|m4v|mov|webm|mkv)\Z", re.IGNORECASE
)
# How JPEG, PNG and WebP files start in base64. The first begins with the "/" of an absolute path.
_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "UklGR")

_BLANKS = b" \t\n\r\x0b\x0c"
_BASE64_ESCAPES = {"%2B": "+", "%2F": "/", "%3D": "=", "%0A": "", "%0D": "", "%20": ""}
_MAX_ESCAPES = 10_000
"""Most other escapes of a ``data:`` URL: each takes many times its size while it is read."""


@dataclass(frozen=True, slots=True)
class FileIntake:
    """Reads files of one kind within the limit. Every error it raises is a ``ServiceError``.

    ``url_fetch``: None turns URLs off; ``input_roots``: the folders that a path may lead into; ``noun``: what
    refusals call such a file; ``unreadable``: the error for one that cannot be read.
    """

    max_bytes: int
    input_roots: tuple[Path, ...] = ()
    url_fetch: UrlFetch | None = None
    noun: str = "image"
    unreadable: type[ServiceError] = ImageUnreadable

    async def read(self, source: str, field: str) -> bytes:
        """Read the file that a request field names or holds: URL, ``data:`` URL, base64 or path.

        Raises ``InvalidField``, ``PathForbidden``, ``TooLarge`` or ``unreadable``.
        """
        text = source.strip()
        if not text:
            raise InvalidField(field, f"{field} is empty.")
        scheme = _SCHEME.match(text)
        if scheme is None:
            return await asyncio.to_thread(self._read_local, text, field)
        if scheme[1].lower() not in ("http", "https"):
            raise InvalidField(field, f"{field} is a URL of a kind that is not read; use http or https.")
        if self.url_fetch is None:
            raise InvalidField(
                field,
                f"{field} is a URL, and reading URLs is turned off on this service; "
                f"upload the {self.noun} file or send it as base64.",
            )
        return self.checked(await self.url_fetch.read(text))

    def checked(self, data: bytes) -> bytes:
        """Return the bytes of a file. Raises ``TooLarge`` for too many."""
        if len(data) > self.max_bytes:
            raise self._too_many_bytes()
        return data

    def _read_local(self, text: str, field: str) -> bytes:
        if text[:5].lower() == "data:":
            return self.checked(self._from_data_url(text, field))
        if self._is_path(text):
            return self.checked(self._from_path(text, field))
        return self.checked(self._from_base64(text, field))

    def _is_path(self, text: str) -> bool:
        if len(text) > MAX_PATH_CHARS:
            return False
        if _FILE_NAME.search(text) or ".." in text.split("/"):
            return True
        if text.startswith(_BASE64_STARTS):
            return False
        return text.startswith(("/", "./", "~")) or (bool(self.input_roots) and self._find(text) is not None)

    def _from_data_url(self, text: str, field: str) -> bytes:
        head, comma, payload = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise self.unreadable(f"{field} is a data: URL without base64 data.")
        if "%" in payload:
            for escape, sign in _BASE64_ESCAPES.items():
                payload = payload.replace(escape, sign).replace(escape.lower(), sign)
            if payload.count("%") > _MAX_ESCAPES:
                raise self.unreadable(f"{field} is a data: URL with more escapes than base64 needs.")
            payload = unquote_to_bytes(payload).decode("latin-1")
        return self._from_base64(payload, field)

    def _from_base64(self, text: str, field: str) -> bytes:
        # A text of blanks, cut at each, would become a list of many times its size.
        packed = (
            text.encode("utf-8", "replace").translate(None, _BLANKS).removesuffix(b"=").removesuffix(b"=")
        )
        if len(packed) > (self.max_bytes + 2) // 3 * 4:
            raise self._too_many_bytes()
        try:
            return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise self.unreadable(
                f"{field} is neither a URL, a data: URL, base64 data nor a file under the input folder."
            ) from None

    def _from_path(self, text: str, field: str) -> bytes:
        if not self.input_roots:
            raise PathForbidden(
                f"{field} is a path, and this service reads none; "
                f"upload the {self.noun} file or send it as base64."
            )
        path = self._find(text)
        if path is None:
            raise self.unreadable(f"{field} names no file under the input folder.")
        try:
            with open(path, "rb", opener=_open_warily) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self.unreadable(f"{field} does not name a regular file.")
                return file.read(self.max_bytes + 1)
        except OSError:
            raise self.unreadable(f"{field} names a file that cannot be read.") from None

    def _find(self, text: str) -> Path | None:
        """Return the real path of the file that ``text`` names under a root, or None if there is no such
        file.

        Raises ``PathForbidden`` when the path leads out of every root, whether a file is there or not.
        """
        inside = False
        for root in self.input_roots:
            real_root = os.path.realpath(root)
            try:
                found = Path(os.path.realpath(os.path.join(real_root, text)))
                if not found.is_relative_to(real_root):
                    continue
                inside = True
                if found.exists():
                    return found
            except (OSError, ValueError):  # a NUL, a lone surrogate, a name that is too long
                inside = True
        if not inside or text.startswith("~"):
            raise PathForbidden(f"The path leads outside the folders that {self.noun}s may be read from.")
        return None

    def _too_many_bytes(self) -> TooLarge:
        return TooLarge(f"The {self.noun} is over the limit of {self.max_bytes} bytes.")


def _open_warily(path: str, flags: int) -> int:
    # Never waits on a pipe, and follows no link put there since the path was checked.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
