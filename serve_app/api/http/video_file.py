"""Responses with a finished video or its pictures: the whole file, or the requested byte ranges."""

import asyncio
import os
import re
from pathlib import Path

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, Response

from serve_app.api.http.etag import CACHED, is_known
from serve_app.api.http.refusals import refused
from serve_app.errors import FileNotFound
from serve_app.tasks.video_output import VideoFormat

_RANGE = re.compile(r"(\d{0,18})\s*-\s*(\d{0,18})")
_MAX_RANGES = 16


class _FileResponse(FileResponse):
    chunk_size = 512 * 1024  # each chunk is a message between processes


async def send_video(
    request: Request, path: Path, *, filename: str, attachment: bool, media_type: str | None = None
) -> Response:
    """Answer with the video, or a picture of it, at ``path``.

    ``media_type``: None for that of the video's format, which the suffix of ``path`` tells.

    That is 200, 206, 304, or 416 for a range that lies past its end.

    A ``Range`` header that makes no sense is passed over, as RFC 9110 asks. Raises ``FileNotFound`` when
    the file has gone.
    """
    form = VideoFormat.of_file(path) or VideoFormat.MP4
    media_type = media_type or form.media_type
    try:
        return await asyncio.to_thread(_response, request, path, filename, attachment, media_type)
    except OSError:
        raise FileNotFound("The video is no longer kept.") from None


def _response(request: Request, path: Path, filename: str, attachment: bool, media_type: str) -> Response:
    stat_result = os.stat(path)
    ranges = _ranges(request.headers.get("range"), stat_result.st_size)
    headers = MutableHeaders(scope=request.scope)
    if not ranges:
        if ranges is not None:
            return refused(
                416,
                "The range lies outside the file.",
                "range_not_satisfiable",
                headers={"Content-Range": f"bytes */{stat_result.st_size}"},
            )
        del headers["range"]
    else:
        headers["range"] = "bytes=" + ",".join(f"{first}-{last}" for first, last in ranges)
    response = _FileResponse(
        path,
        headers={"Cache-Control": CACHED},
        media_type=media_type,
        filename=filename,
        stat_result=stat_result,
        content_disposition_type="attachment" if attachment else "inline",
    )
    if is_known(request, response.headers["etag"]):
        return Response(status_code=304, headers={"ETag": response.headers["etag"], "Cache-Control": CACHED})
    return response


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
