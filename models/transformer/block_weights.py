"""Placement of a transformer's weights: resident on the device, or brought there block by block."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch


class BlockWeights(Protocol):
    """Keeps the weights in use on the device."""

    @property
    def device(self) -> torch.device:
        """Device on which the transformer computes."""

    def ready(self) -> None:
        """Bring the weights outside the blocks to the device. Call before any computation."""

    def each(self, blocks: Sequence[Any]) -> AbstractContextManager[Iterator[Any]]:
        """Iterate over the blocks in this order, each on the device until the next is taken.

        The iteration may stop early.
        """


class Resident:
    """Keeps all weights on the device all the time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def ready(self) -> None:
        """Do nothing: the weights never leave the device."""
        pass

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """Iterate over the blocks, which are always on the device."""
        yield iter(blocks)
