"""The part of a request kept in the task's row: its fields without image data, and a digest."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.media.file_intake import MAX_PATH_CHARS
from serve_app.submission.continuation import FIELD
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import SentVideo, VideoOrder
from serve_app.tasks.upload import shown

_PARTS = re.compile(r"\w+")
_FILES = ("first_frame", "last_frame", "references", "video", "mask")


def without_pictures(order: VideoOrder, words: FieldWords) -> Mapping[str, Any]:
    """Return the request as the client sent it, without pictures that came as text; paths and URLs stay, but
    for the secret of an upload's.
    """
    kept = dict(order.sent)
    for file in (*(words[field] for field in _FILES), f"{words[FIELD]}.video"):
        kept = _without_file(kept, _PARTS.findall(file))
    if order.upload_url is not None and words["upload_url"] in kept:
        kept[words["upload_url"]] = shown(order.upload_url)
    return kept


def _without_file(value: Any, path: Sequence[str]) -> Any:
    """Return a value without the data of the file, or of the files, that it has at a path."""
    if not path:
        return _without_data(value)
    part, *rest = path
    if isinstance(value, dict) and part in value:
        return {**value, part: _without_file(value[part], rest)}
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        place = int(part)
        return [*value[:place], _without_file(value[place], rest), *value[place + 1 :]]
    return value


def _without_data(value: Any) -> Any:
    """Return a file as text without its data, or several; the name of an earlier video stays."""
    if isinstance(value, list):
        return [_without_data(entry) for entry in value]
    return _shortened(value) if isinstance(value, str) and value else value


def _shortened(text: str) -> str:
    # Base64 has no full stop; the names of image files and of hosts do.
    if len(text) > MAX_PATH_CHARS or text.startswith("data:") or "." not in text:
        return f"({len(text)} characters left out)"
    return text


def digest(order: VideoOrder) -> str:
    """Return a SHA-256 of the request and its uploaded pictures. Blocks for as long as hashing takes."""
    found = hashlib.sha256()
    frames = (order.first_frame, order.last_frame)
    uploads = [picture if isinstance(picture, bytes) else b"" for picture in frames]
    # No part for what an order of an earlier version could not have: its digest stays the same.
    uploads += [file for file in (*order.references, order.video, order.mask) if isinstance(file, bytes)]
    source = order.continue_from
    uploads += [source.file] if isinstance(source, SentVideo) and isinstance(source.file, bytes) else []
    for part in (json.dumps(order.sent, sort_keys=True).encode(), *uploads):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()
