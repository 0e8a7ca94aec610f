"""Parsing of JSON request bodies and of the ``Idempotency-Key`` header."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request

from serve_app.errors import InvalidField

MAX_KEY_CHARS = 255


async def read_object(request: Request) -> Mapping[str, Any]:
    """Parse the request body as a JSON object, ignoring ``Content-Type``. Raises ``InvalidField``."""
    try:
        body = json.loads(await request.body(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidField("body", "The body is not UTF-8 text.") from None
    except RecursionError:
        raise InvalidField("body", "The body is nested too deeply.") from None
    except ValueError as error:
        place = ""
        if isinstance(error, json.JSONDecodeError):
            place = f" (line {error.lineno}, column {error.colno})"
        raise InvalidField("body", f"The body is not valid JSON{place}.") from None
    if not isinstance(body, dict):
        raise InvalidField("body", 'The body must be a JSON object, such as {"prompt": "a cat"}.')
    return body


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
