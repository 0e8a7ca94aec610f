"""Validation errors as parts of a sentence: pydantic's findings, and unknown names."""

import difflib
from collections.abc import Iterable

from pydantic_core import ErrorDetails

Loc = tuple[int | str, ...]
"""Location in an input: keys and list indices from the top."""


def path(loc: Loc) -> str:
    """Return the location as text for a sentence: ``models[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def reason(finding: ErrorDetails) -> str:
    """Return the reason of a finding, to follow the location and a colon; without a full stop."""
    if finding["type"] == "missing":
        return "is required"
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"]).rstrip(".")
    message = finding["msg"]
    return f"{message[0].lower()}{message[1:].rstrip('.')}"


def unknown(fault: str, name: str, allowed: Iterable[str]) -> str:
    """Return ``fault`` followed by the closest allowed name and the list of all allowed names."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{fault}; {hint}allowed here: {', '.join(allowed)}"
