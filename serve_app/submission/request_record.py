"""The part of a request kept in the task's row: its fields without image data, and a digest."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from serve_app.media.image_intake import MAX_PATH_CHARS
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import VideoOrder

_FRAMES = ("first_frame", "last_frame")


def without_pictures(order: VideoOrder, words: FieldWords) -> Mapping[str, Any]:
    """Return the request as the client sent it, without pictures that came as text; paths and URLs stay."""
    kept = dict(order.sent)
    for name in (words[field] for field in _FRAMES):
        text = kept.get(name)
        # Base64 has no full stop; the names of image files and of hosts do.
        if text and (len(text) > MAX_PATH_CHARS or text.startswith("data:") or "." not in text):
            kept[name] = f"({len(text)} characters left out)"
    return kept


def digest(order: VideoOrder) -> str:
    """Return a SHA-256 of the request and its uploaded pictures. Blocks for as long as hashing takes."""
    found = hashlib.sha256()
    uploads = (
        picture if isinstance(picture, bytes) else b"" for picture in (order.first_frame, order.last_frame)
    )
    for part in (json.dumps(order.sent, sort_keys=True).encode(), *uploads):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()
