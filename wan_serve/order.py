"""What a client asks for, as the service's native API takes it."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Source: TypeAlias = str | Path | bytes
"""A picture or a video: a file's path, its bytes, or an http(s) or data: URL."""

NAMES: Mapping[str, str] = {
    "image": "image_path",
    "last_image": "last_frame_path",
    "seconds": "video_duration",
    "steps": "infer_steps",
}
"""Fields of the native API that have a shorter name here; all others have their own."""

_SOURCES = frozenset({"image_path", "last_frame_path", "video", "mask"})
_URLS = ("http://", "https://", "data:")


def body(prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON body of a submit, without fields of None. Raises ``OSError`` for a missing file."""
    sent: dict[str, Any] = {"prompt": prompt} if prompt else {}
    for name, value in fields.items():
        native = NAMES.get(name, name)
        if value is None:
            continue
        if native in _SOURCES:
            sent[native] = text_of(value)
        elif native == "reference_images":
            sent[native] = [text_of(picture) for picture in value]
        elif native == "continue_from":
            sent[native] = _continued(value)
        else:
            sent[native] = value
    return sent


def text_of(source: Source) -> str:
    """Return a picture or video as text: a URL as it is, a file or bytes as base64."""
    if isinstance(source, str) and source.startswith(_URLS):
        return source
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    return base64.b64encode(content).decode()


def _continued(value: Any) -> Any:
    if isinstance(value, Mapping) and "video" in value:
        return {**value, "video": text_of(value["video"])}
    return value if isinstance(value, Mapping) else {"task_id": value}
