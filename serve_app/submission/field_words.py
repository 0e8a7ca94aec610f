"""Mapping from the fields of an order to a surface's own field names, for error messages."""

import re
from collections.abc import Mapping
from dataclasses import fields

from serve_app.errors import InvalidField
from serve_app.submission.video_order import OrderFault, VideoOrder

_END = re.compile(r"[.\[]")
_ORDER_FIELDS = frozenset(field.name for field in fields(VideoOrder))


class FieldWords:
    """Names that a surface has for the fields of ``VideoOrder``; a field without an entry keeps its name.

    A part of a field is spelt by its path: ``loras[0].name``. Without a word of its own it has the field's,
    with the rest of the path after it.
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        """Raises ``ValueError`` for a name that is no field of ``VideoOrder``."""
        unknown = {_field(path) for path in words} - _ORDER_FIELDS
        if unknown:
            raise ValueError(f"no fields of an order: {', '.join(sorted(unknown))}")
        self._words = dict(words)

    def __getitem__(self, path: str) -> str:
        if path in self._words:
            return self._words[path]
        field = _field(path)
        return self._words.get(field, field) + path.removeprefix(field)

    def but(self, **words: str) -> "FieldWords":
        """Return a copy with some names replaced, for a request that spells a field differently."""
        return FieldWords({**self._words, **words}) if words else self

    def refusal(self, fault: OrderFault) -> InvalidField:
        """Return the error for the client, with the field's name as the client spells it."""
        word = self[fault.field]
        return InvalidField(word, f"{word}: {fault.reason}")


def _field(path: str) -> str:
    """Return the field that a path begins with."""
    return _END.split(path, maxsplit=1)[0]
