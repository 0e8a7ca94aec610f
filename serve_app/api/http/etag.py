"""Entity tags: answers that are not sent again to a client that has them (RFC 9110)."""

import hashlib

from fastapi import Request
from starlette.responses import Response

CACHED = "private, no-cache"
"""``Cache-Control``: kept by the client alone, which asks by ``ETag`` before each use if it still holds."""


def is_known(request: Request, etag: str) -> bool:
    """Return whether the request's ``If-None-Match`` names this entity tag, by weak comparison."""
    header = request.headers.get("if-none-match")
    tags = [] if header is None else [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def send_tagged(request: Request, data: bytes, media_type: str) -> Response:
    """Answer with ``data``, or a 304 if the client has it."""
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": CACHED}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
