"""Parsing of JSON request bodies and of the ``Idempotency-Key`` header."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request

from serve_app.errors import InvalidField, TooLarge

MAX_KEY_CHARS = 255


MAX_TEXT_BYTES = 1_000_000
"""Most bytes of a body that holds no file: several times the longest prompts, however they are escaped."""
MAX_JSON_MARKS = 100_000
"""Most commas, colons and opening brackets of a JSON body: what is between them costs time and memory."""

_MARKS = (b",", b":", b"[", b"{")
AT_ONCE_BYTES = 65_536
"""Bodies up to this size are parsed where they are; larger ones in a thread, beside other requests."""


async def read_object(request: Request, *, max_bytes: int | None = None) -> Mapping[str, Any]:
    """Parse the request body as a JSON object, ignoring ``Content-Type``.

    ``max_bytes``: for a request without files; else the limit of all bodies holds. Raises ``InvalidField``,
    ``TooLarge``.
    """
    body = await _read(request, max_bytes)
    found = _parsed(body) if len(body) <= AT_ONCE_BYTES else await asyncio.to_thread(_parsed, body)
    if not isinstance(found, dict):
        raise InvalidField("body", 'The body must be a JSON object, such as {"prompt": "a cat"}.')
    return found


async def read_text_body(request: Request) -> bytes:
    """Read a body that holds no file. Raises ``TooLarge``."""
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > MAX_TEXT_BYTES:
            raise _too_large(MAX_TEXT_BYTES)
    return bytes(chunks)


async def _read(request: Request, max_bytes: int | None) -> bytearray:
    """Read a body of JSON, as far as it is none that would be refused."""
    body, marks = bytearray(), 0
    async for chunk in request.stream():
        body += chunk
        if max_bytes is not None and len(body) > max_bytes:
            raise _too_large(max_bytes)
        marks += sum(map(chunk.count, _MARKS))
        if marks > MAX_JSON_MARKS:
            raise InvalidField(
                "body", f"The body has more than {MAX_JSON_MARKS} commas, colons and brackets."
            )
    return body


def _parsed(body: bytearray) -> object:
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        body.clear()  # it may be large, and the text four times as large
        return json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidField("body", "The body is not UTF-8 text.") from None
    except RecursionError:
        raise InvalidField("body", "The body is nested too deeply.") from None
    except ValueError as error:
        place = ""
        if isinstance(error, json.JSONDecodeError):
            place = f" (line {error.lineno}, column {error.colno})"
        raise InvalidField("body", f"The body is not valid JSON{place}.") from None


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The request body is over the limit of {max_bytes} bytes; a file is sent as multipart/form-data."
    )


def idempotency_key(request: Request) -> str | None:
    """Return the request's ``Idempotency-Key``, None without one. Raises ``InvalidField``."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (0 < len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        raise InvalidField(
            "Idempotency-Key", f"Idempotency-Key: must be 1 to {MAX_KEY_CHARS} printable ASCII characters."
        )
    return key


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
