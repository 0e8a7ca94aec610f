"""Nested values of a form, spelt with brackets: ``loras[][name]``, ``input_reference[image_url]``."""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from serve_app.errors import InvalidField

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")
_MAX_DEPTH = 8

Path: TypeAlias = tuple[str, ...]


def nested(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the values of a form by field name; names with brackets become objects and lists of texts.

    ``x[a]`` is an entry of an object, ``x[]`` and ``x[0]`` of a list. In ``x[][a]`` the entries of a list of
    objects follow from the order of the values of each name. A name that is spelt otherwise is kept as it is.
    Raises ``InvalidField`` for a field that is sent twice with two values, or in two forms.
    """
    found: dict[str, list[tuple[Path, str]]] = {}
    for name, text in texts:
        spelt = _NAME.fullmatch(name)
        path = tuple(_PART.findall(spelt[2])) if spelt is not None else ()
        if spelt is None or len(path) > _MAX_DEPTH:
            found.setdefault(name, []).append(((), text))
        else:
            found.setdefault(spelt[1], []).append((path, text))
    return {name: _value(name, values) for name, values in found.items()}


def _value(name: str, values: Sequence[tuple[Path, str]]) -> Any:
    if all(not path for path, _ in values):
        return _only(name, [text for _, text in values])
    if not all(path for path, _ in values):
        raise InvalidField(name, f"{name}: is there in two forms; send it once.")
    inner: dict[str, list[tuple[Path, str]]] = {}
    for path, text in values:
        inner.setdefault(path[0], []).append((path[1:], text))
    if set(inner) == {""}:
        return _entries(name, inner[""])
    if all(key.isdecimal() for key in inner):
        return [_value(f"{name}[{key}]", inner[key]) for key in sorted(inner, key=int)]
    return {key: _value(f"{name}[{key}]", found) for key, found in inner.items()}


def _entries(name: str, values: Sequence[tuple[Path, str]]) -> list[Any]:
    """Return the entries of a list whose fields were sent without numbers."""
    columns: dict[Path, list[str]] = {}
    for path, text in values:
        columns.setdefault(path, []).append(text)
    if set(columns) == {()}:
        return columns[()]
    if len({len(column) for column in columns.values()}) > 1:
        # A client sends all names, then all strengths: which strength is whose could only be guessed.
        raise InvalidField(name, f"{name}: give every entry the same fields, or send the list as JSON text.")
    rows = zip(*columns.values(), strict=True)
    return [_value(name, list(zip(columns, row, strict=True))) for row in rows]


def _only(name: str, texts: Sequence[str]) -> str:
    if len(set(texts)) > 1:
        raise InvalidField(name, f"{name}: is there twice, with two values; send it once.")
    return texts[0]
