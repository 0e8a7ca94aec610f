"""A webhook message as it is sent: its body, and the headers that sign it.

Follows Standard Webhooks 1.0 (https://www.standardwebhooks.com): HMAC-SHA256 over ``id.timestamp.body``.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from serve_app.tasks.task import Task
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Delivery

Describe = Callable[[Task, Upload | None], Mapping[str, Any]]
"""Returns the status document of a task and its upload, which a message carries as its ``data``."""

MAX_BODY_BYTES = 20_000
_CUT_CHARS = 2000


def body_of(delivery: Delivery, status: Mapping[str, Any]) -> bytes:
    """Return the message's body; of a status that would be too long, notes are left out."""
    body = _json(delivery, status)
    if len(body) <= MAX_BODY_BYTES:
        return body
    return _json(delivery, {**status, "notes": [], "message": str(status["message"])[:_CUT_CHARS]})


def headers_of(delivery: Delivery, body: bytes, secrets: Sequence[bytes], *, at: float) -> dict[str, str]:
    """Return the headers of an attempt at ``at``, signed with each secret: several during a rotation."""
    timestamp = str(int(at))
    signed = f"{delivery.id}.{timestamp}.".encode() + body
    signatures = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return {
        "content-type": "application/json",
        "webhook-id": delivery.id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
    }


def _json(delivery: Delivery, status: Mapping[str, Any]) -> bytes:
    occurred = datetime.fromtimestamp(delivery.occurred_at, UTC).isoformat(timespec="milliseconds")
    message = {"type": delivery.type, "timestamp": occurred.replace("+00:00", "Z"), "data": status}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
