"""Pauses: the queues that nothing is begun from."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pauses:
    """The paused owners, whose tasks of all models wait, and the paused models, for which all tasks wait."""

    owners: Collection[str] = frozenset()
    models: Collection[str] = frozenset()

    def hold(self, owner: str, model: str) -> bool:
        """Return True if a queued task of this owner and model is not begun."""
        return owner in self.owners or model in self.models
