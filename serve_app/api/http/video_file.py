"""Responses with a finished video or its pictures: the whole file, or the requested byte ranges."""

import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from email.utils import formatdate
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import Request
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import RedirectResponse, Response, StreamingResponse

from serve_app.api.http.etag import CACHED, is_known
from serve_app.api.http.methods import is_head
from serve_app.api.http.refusals import refused
from serve_app.files.stored_file import StoredFile
from serve_app.tasks.video_output import VideoFormat

_RANGE = re.compile(r"(\d{0,18})\s*-\s*(\d{0,18})")
_MAX_RANGES = 16


def suffix_of(file: StoredFile) -> str:
    """Return the end of a file's name that tells its format."""
    return PurePosixPath(file.name).suffix


def send_video(
    request: Request, file: StoredFile, *, filename: str, attachment: bool, media_type: str | None = None
) -> Response:
    """Answer with a video, or a picture of it.

    ``media_type``: None for that of the video's format, which the suffix of its name tells.

    That is 200, 206, 304, or 416 for a range that lies past its end; 307 to where the client itself is to get
    the file, if there is such a place. A ``Range`` header that makes no sense is passed over, as RFC 9110
    asks.
    """
    etag = f'"{file.tag}"'
    if is_known(request, etag):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": CACHED})
    media_type = media_type or (VideoFormat.of_file(file.name) or VideoFormat.MP4).media_type
    disposition = _disposition("attachment" if attachment else "inline", filename)
    link = file.link(disposition=disposition, media_type=media_type)
    if link is not None and not is_head(request):  # which the link is not for
        return RedirectResponse(link, headers={"Cache-Control": "no-store"})
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition,
        "Last-Modified": formatdate(file.modified_at, usegmt=True),
        "ETag": etag,
        "Cache-Control": CACHED,
    }
    asked = request.headers.get("range") if _is_for(request, headers) else None
    ranges = _ranges(asked, file.size)
    if ranges is None:
        headers["Content-Length"] = str(file.size)
        chunks = () if is_head(request) else file.chunks(0, file.size)
        return StreamingResponse(_reading(chunks), 200, headers, media_type)
    if not ranges:
        return refused(
            416,
            "The range lies outside the file.",
            "range_not_satisfiable",
            headers={"Content-Range": f"bytes */{file.size}"},
        )
    return _send_ranges(file, _merged(ranges), headers, media_type)


def _send_ranges(
    file: StoredFile, ranges: Sequence[tuple[int, int]], headers: dict[str, str], media_type: str
) -> Response:
    if len(ranges) == 1:
        ((first, last),) = ranges
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        headers["Content-Length"] = str(last + 1 - first)
        return StreamingResponse(_reading(file.chunks(first, last + 1)), 206, headers, media_type)
    boundary = secrets.token_hex(13)
    described = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes"
    heads = [f"{described} {first}-{last}/{file.size}\r\n\r\n" for first, last in ranges]
    end = f"--{boundary}--"

    def parts() -> Iterator[bytes]:
        for head, (first, last) in zip(heads, ranges, strict=True):
            yield head.encode()
            yield from file.chunks(first, last + 1)
            yield b"\r\n"
        yield end.encode()

    length = sum(len(head) + last + 1 - first + 2 for head, (first, last) in zip(heads, ranges, strict=True))
    headers["Content-Length"] = str(length + len(end))
    return StreamingResponse(_reading(parts()), 206, headers, f"multipart/byteranges; boundary={boundary}")


async def _reading(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    async for chunk in iterate_in_threadpool(chunks):
        yield chunk


def _disposition(kind: str, filename: str) -> str:
    quoted = quote(filename)
    return f'{kind}; filename="{quoted}"' if quoted == filename else f"{kind}; filename*=utf-8''{quoted}"


def _is_for(request: Request, headers: Mapping[str, str]) -> bool:
    """Return whether the ranges asked for are of the file as it is, by ``If-Range``."""
    condition = request.headers.get("if-range")
    return condition is None or condition in (headers["ETag"], headers["Last-Modified"])


def _merged(ranges: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Return the ranges in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _ranges(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """Return first and last byte of each range that can be sent. None: send all; empty: none can be sent."""
    if header is None:
        return None
    unit, _, specs = header.partition("=")
    if unit.strip().lower() != "bytes" or specs.count(",") >= _MAX_RANGES:
        return None
    found = []
    for spec in specs.split(","):
        match = _RANGE.fullmatch(spec.strip())
        if match is None or match[0].strip() == "-":
            return None
        first, last = match[1], match[2]
        if not first:  # the last so many bytes
            begin, end = max(size - int(last), 0), size - 1
            if int(last) == 0:
                continue
        else:
            begin, end = int(first), int(last) if last else size - 1
            if last and end < begin:
                return None
        if begin < size:
            found.append((begin, min(end, size - 1)))
    return found
