"""Parsing of multipart (RFC 7578) and URL-encoded forms, independent of the client that wrote them."""

import asyncio
import base64
import binascii
import codecs
import quopri
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from serve_app.api.http.body import AT_ONCE_BYTES, read_text_body
from serve_app.errors import InvalidField, TooLarge

MAX_FORM_FIELDS = 100
MAX_FORM_FILES = 8

_MALFORMED = "The form is malformed or has too many or too large fields."
_NAME_CHARS = 40
_MAX_PREAMBLE_BYTES = 65_536
_MAX_HEADER_BYTES = 16_384
"""Most bytes of all headers of a part."""
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_CHARSET_FIELD = "_charset_"
_BLANKS = b" \t\n\r\x0b\x0c"
_FILE_TYPES = ("image/", "video/", "application/octet-stream")
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf_7"})
"""Python codecs that are not accepted as a form's charset; some take quadratic time on crafted input."""


@dataclass(frozen=True, slots=True)
class Form:
    """Parsed form: text fields by name, and the bytes of each uploaded file."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]
    repeated: frozenset[str]
    """Names of text fields that were sent with several values; ``fields`` has the last value."""
    texts: Sequence[tuple[str, str]]
    """Name and value of every text field, in the order in which they were sent."""


@dataclass(slots=True)
class _Part:
    """Raw part of a multipart body."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)

    def parameters(self, header: str) -> tuple[str, Mapping[str, str]]:
        """Parse one of the part's headers with ``header_parameters``."""
        return header_parameters(self.headers.get(header, ""))

    @property
    def is_empty_input(self) -> bool:
        """Return whether the part is a browser's file input without a chosen file."""
        named = self.parameters("content-disposition")[1]
        return not self.data and not named.get("filename")


async def read_form(
    request: Request,
    *,
    files: Collection[str],
    lists: Collection[str] = (),
    max_file_bytes: int,
    max_text_bytes: int,
) -> Form:
    """Parse the form in a request; ``files`` are the field names that accept a file.

    Under a name of ``lists`` there may be several; the form has them as ``name[0]``, ``name[1]`` and so on.
    Raises ``InvalidField``, also for a file under another name or two under one, or ``TooLarge``.
    """
    kind, parameters = header_parameters(request.headers.get("content-type", ""))
    charset = parameters.get("charset", "utf-8")
    if kind == "application/x-www-form-urlencoded":
        body = await read_text_body(request)
        if len(body) <= AT_ONCE_BYTES:
            return _urlencoded(body, charset)
        return await asyncio.to_thread(_urlencoded, body, charset)
    if kind != "multipart/form-data":
        raise InvalidField("body", "The body must be a form: send it as multipart/form-data.")
    reader = _MultipartReader(parameters.get("boundary", ""), max(max_file_bytes, max_text_bytes))
    async for chunk in request.stream():
        reader.write(chunk)
    return _Sorter(files, lists, max_file_bytes, max_text_bytes, charset).form(reader.parts())


def header_parameters(header: str) -> tuple[str, Mapping[str, str]]:
    """Split a header into its value and its parameters; value and parameter names become lower case."""
    value = header.partition(";")[0].strip().lower()
    found: dict[str, str] = {}
    for name, text in _PARAMETER.findall(header):
        is_quoted = len(text) >= 2 and text[0] == text[-1] == '"'
        found.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", text[1:-1]) if is_quoted else text.strip())
    return value, found


class _MultipartReader:
    """Incremental parser of a multipart body. Raises ``InvalidField`` or ``TooLarge``."""

    def __init__(self, boundary: str, max_part_bytes: int) -> None:
        self._max_part_bytes = max_part_bytes
        self._parts: list[_Part] = []
        self._header = (bytearray(), bytearray())
        self._header_bytes = 0
        self._has_ended = False
        self._first = f"\r\n--{boundary}".encode("latin-1", "replace")
        self._preamble: bytearray | None = bytearray(b"\r\n")
        callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda *piece: self._add_header(self._header[0], *piece),
            "on_header_value": lambda *piece: self._add_header(self._header[1], *piece),
            "on_header_end": self._end_header,
            "on_part_data": self._add,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary.encode("latin-1"), cast(Any, callbacks))
        except (FormParserError, ValueError):
            raise InvalidField("body", _MALFORMED) from None

    def write(self, chunk: bytes) -> None:
        if self._preamble is not None:
            chunk = self._without_preamble(self._preamble, chunk)
        try:
            self._parser.write(chunk)
        except (FormParserError, ValueError):
            # The parser's own words are about boundaries and headers, which no client wrote by hand.
            raise InvalidField("body", _MALFORMED) from None

    def _without_preamble(self, held: bytearray, chunk: bytes) -> bytes:
        """Return the data from the first boundary on, dropping the preamble (RFC 2046)."""
        held += chunk
        begin = held.find(self._first)
        if begin < 0:
            if len(held) > _MAX_PREAMBLE_BYTES:
                raise InvalidField("body", _MALFORMED)
            return b""
        self._preamble = None
        return bytes(held[begin + 2 :])

    def parts(self) -> Iterable[_Part]:
        """Return all parts. Raises ``InvalidField`` for a truncated body without closing boundary."""
        if not self._has_ended:
            raise InvalidField("body", "The form ends before its last boundary.")
        return self._parts

    def _begin(self) -> None:
        if len(self._parts) >= MAX_FORM_FIELDS + MAX_FORM_FILES:
            raise InvalidField("body", _MALFORMED)
        self._parts.append(_Part())
        self._header_bytes = 0

    def _add_header(self, text: bytearray, data: bytes, start: int, end: int) -> None:
        self._header_bytes += end - start
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise InvalidField("body", _MALFORMED)
        text.extend(data[start:end])

    def _begin_header(self) -> None:
        self._header_bytes += 2
        self._header = (bytearray(), bytearray())

    def _end_header(self) -> None:
        name, value = (part.decode("utf-8", "replace") for part in self._header)
        self._parts[-1].headers[name.strip().lower()] = value.strip()

    def _add(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        if len(part.data) + end - start > self._max_part_bytes:
            raise TooLarge(f"A part of the form is over the limit of {self._max_part_bytes} bytes.")
        part.data.extend(data[start:end])

    def _end(self) -> None:
        self._has_ended = True


class _Sorter:
    """Classifier of parts into files and text fields; decodes the text."""

    def __init__(
        self,
        file_names: Collection[str],
        lists: Collection[str],
        max_file_bytes: int,
        max_text_bytes: int,
        charset: str,
    ) -> None:
        self._file_names = (*file_names, *lists)
        self._lists = lists
        self._max_file_bytes = max_file_bytes
        self._max_text_bytes = max_text_bytes
        self._charset = charset

    def form(self, parts: Iterable[_Part]) -> Form:
        named = [(_name(part), part) for part in parts]
        for name, part in named:
            if name == _CHARSET_FIELD:  # RFC 7578, 4.6: what the text is written in
                self._charset = _decoded(name, bytes(part.data), "ascii")
        files: dict[str, bytes] = {}
        texts: list[tuple[str, str]] = []
        for name, part in named:
            if self._is_file(name, part):
                if not part.is_empty_input:
                    self._add_file(files, name, _content(part))
            elif name != _CHARSET_FIELD:
                if len(part.data) > self._max_text_bytes:
                    raise InvalidField("body", _MALFORMED)
                texts.append((name, self._text(name, part)))
        return _form(texts, files)

    def _is_file(self, name: str, part: _Part) -> bool:
        _, named = part.parameters("content-disposition")
        if "filename" in named or "filename*" in named:
            return True
        if name not in self._file_names or not part.data:
            return False
        # Some clients name no file, such as .NET's: then its type tells, or that it is no text.
        if part.parameters("content-type")[0].startswith(_FILE_TYPES):
            return True
        try:
            part.data.decode()
        except UnicodeDecodeError:
            return True
        return False

    def _add_file(self, files: dict[str, bytes], name: str, data: bytes) -> None:
        if name not in self._file_names:
            there = " and ".join(self._file_names)
            raise InvalidField(name, f"{name}: no file is read under this name; files go in {there}.")
        if name in self._lists:
            name = f"{name}[{sum(other.startswith(f'{name}[') for other in files)}]"
        if name in files:
            raise InvalidField(name, f"{name}: is there twice; send one file under each name.")
        if len(data) > self._max_file_bytes:
            raise TooLarge(f"{name}: the file is over the limit of {self._max_file_bytes} bytes.")
        if len(files) >= MAX_FORM_FILES:
            raise InvalidField("body", _MALFORMED)
        files[name] = data

    def _text(self, name: str, part: _Part) -> str:
        charset = part.parameters("content-type")[1].get("charset", self._charset)
        return _decoded(name, _content(part), charset)


def _urlencoded(body: bytes, charset: str) -> Form:
    _check_charset("body", charset)
    try:
        pairs = parse_qsl(
            body.decode(charset),
            keep_blank_values=True,
            encoding=charset,
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except UnicodeDecodeError:
        raise InvalidField("body", f"The form is not {charset[:_NAME_CHARS]} text.") from None
    except LookupError:
        raise _unknown_charset("body") from None
    except ValueError:
        raise InvalidField("body", _MALFORMED) from None
    return _form(pairs, {})


def _form(texts: Sequence[tuple[str, str]], files: Mapping[str, bytes]) -> Form:
    fields: dict[str, str] = {}
    repeated = set()
    for name, text in texts:
        if fields.setdefault(name, text) != text:
            repeated.add(name)
            fields[name] = text
    if len(fields) > MAX_FORM_FIELDS:
        raise InvalidField("body", _MALFORMED)
    return Form(fields, files, frozenset(repeated), texts)


def _name(part: _Part) -> str:
    kind, named = part.parameters("content-disposition")
    if kind != "form-data" or not named.get("name") or "\ufffd" in named["name"]:
        raise InvalidField("body", "A part of the form has no name.")
    return named["name"]


def _content(part: _Part) -> bytes:
    """Return a part's bytes, decoded from the deprecated ``Content-Transfer-Encoding`` if that is set."""
    encoding = part.headers.get("content-transfer-encoding", "binary").lower()
    data = bytes(part.data)
    if encoding == "quoted-printable":
        return quopri.decodestring(data)
    if encoding == "base64":
        try:
            return base64.b64decode(data.translate(None, _BLANKS), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidField("body", "A part of the form is not the base64 that it says.") from None
    if encoding not in ("binary", "8bit", "7bit"):
        raise InvalidField("body", "A part of the form has a transfer encoding that is not read.")
    return data


def _decoded(name: str, data: bytes, charset: str) -> str:
    _check_charset(name, charset)
    try:
        return data.decode(charset)
    except UnicodeDecodeError:
        shown = name[:_NAME_CHARS]
        raise InvalidField(name, f"{shown}: is not {charset[:_NAME_CHARS]} text.") from None
    except LookupError:
        raise _unknown_charset(name) from None


def _check_charset(field_name: str, charset: str) -> None:
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        raise _unknown_charset(field_name) from None
    if name.replace("-", "_") in _NO_CHARSETS:
        raise _unknown_charset(field_name)


def _unknown_charset(field_name: str) -> InvalidField:
    return InvalidField(field_name, f"{field_name[:_NAME_CHARS]}: is in an encoding that is not known.")
