"""What a surface calls the fields of an order, and refusals in those words."""

from collections.abc import Mapping
from dataclasses import fields

from serve_app.errors import InvalidField
from serve_app.submission.video_order import OrderFault, VideoOrder

_ORDER_FIELDS = frozenset(field.name for field in fields(VideoOrder))


class FieldWords:
    """One surface's names of the fields of ``VideoOrder``; a field without one keeps the order's name."""

    def __init__(self, words: Mapping[str, str]) -> None:
        """Raises ``ValueError`` for a name that is no field of ``VideoOrder``."""
        unknown = words.keys() - _ORDER_FIELDS
        if unknown:
            raise ValueError(f"no fields of an order: {', '.join(sorted(unknown))}")
        self._words = dict(words)

    def __getitem__(self, field: str) -> str:
        return self._words.get(field, field)

    def but(self, **words: str) -> "FieldWords":
        """Return the same words with these in place of some, for a request that spelt a field otherwise."""
        return FieldWords({**self._words, **words})

    def refusal(self, fault: OrderFault) -> InvalidField:
        """Return the refusal for the client: it names the field as the client does."""
        word = self[fault.field]
        return InvalidField(word, f"{word}: {fault.reason}")
