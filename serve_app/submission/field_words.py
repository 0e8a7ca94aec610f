"""Mapping from the fields of an order to a surface's own field names, for error messages."""

from collections.abc import Mapping
from dataclasses import fields

from serve_app.errors import InvalidField
from serve_app.submission.video_order import OrderFault, VideoOrder

_ORDER_FIELDS = frozenset(field.name for field in fields(VideoOrder))


class FieldWords:
    """Names that a surface has for the fields of ``VideoOrder``; a field without an entry keeps its name."""

    def __init__(self, words: Mapping[str, str]) -> None:
        """Raises ``ValueError`` for a name that is no field of ``VideoOrder``."""
        unknown = words.keys() - _ORDER_FIELDS
        if unknown:
            raise ValueError(f"no fields of an order: {', '.join(sorted(unknown))}")
        self._words = dict(words)

    def __getitem__(self, field: str) -> str:
        return self._words.get(field, field)

    def but(self, **words: str) -> "FieldWords":
        """Return a copy with some names replaced, for a request that spells a field differently."""
        return FieldWords({**self._words, **words})

    def refusal(self, fault: OrderFault) -> InvalidField:
        """Return the error for the client, with the field's name as the client spells it."""
        word = self[fault.field]
        return InvalidField(word, f"{word}: {fault.reason}")
