"""Where the weights of a transformer are, and when."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch


class BlockWeights(Protocol):
    """Sees to it that weights are on the device when they are computed with."""

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""

    def ready(self) -> None:
        """Before anything is computed: what lies outside the blocks is to be there."""

    def each(self, blocks: Sequence[Any]) -> AbstractContextManager[Iterator[Any]]:
        """The blocks in this order, each on the device until the next is asked for. Not all need be taken."""


class Resident:
    """All weights are on the device all the time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def ready(self) -> None:
        """Do nothing: the weights never leave."""
        pass

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """The blocks, which are always there."""
        yield iter(blocks)
