"""Reads request bodies, whatever they hold, into plain objects, or refuses them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve_app.errors import InvalidField, TooLarge

MAX_FORM_FIELDS = 100
MAX_FORM_FILES = 4
MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form: text by field name, and the bytes of each uploaded file."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


async def read_object(request: Request) -> Mapping[str, Any]:
    """Return the JSON object in a request, whatever its content type says. Raises ``InvalidField``."""
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


async def read_form(request: Request, *, max_file_bytes: int, max_text_bytes: int) -> Form:
    """Return the form in a request. Raises ``InvalidField`` or ``TooLarge``."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    if not request.headers.get("content-type", "").startswith(
        ("multipart/form-data", "application/x-www-form-urlencoded")
    ):
        raise InvalidField("body", "The body must be a form: send it as multipart/form-data.")
    try:
        async with request.form(
            max_files=MAX_FORM_FILES, max_fields=MAX_FORM_FIELDS, max_part_size=max_text_bytes
        ) as form:
            for name, part in form.multi_items():
                if not isinstance(part, UploadFile):
                    fields[name] = part
                elif part.filename or part.size:
                    if (part.size or 0) > max_file_bytes:
                        raise TooLarge(f"{name}: the file is over the limit of {max_file_bytes} bytes.")
                    files[name] = await part.read()
    except (HTTPException, ValueError, LookupError):
        # The parser's own words are about boundaries and headers, which no client wrote by hand.
        raise InvalidField("body", "The form is malformed or has too many or too large fields.") from None
    return Form(fields, files)


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
