"""Quantisation of a transformer on its way to the device, which never holds more than one of its blocks in
full precision.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.kernels.eager import EAGER
from models.kernels.operations import Operations
from models.speed.fp8 import quantise_block
from models.transformer.block import blocks_in_order
from models.transformer.projections import join_projections
from models.weights.arrival import Arrival


class QuantisedAfterUse:
    """Implements ``BlockWeights``: brings each block to the device for its use, and quantises it after that.

    So one forward pass, in full precision, leaves a quantised transformer on the device.
    """

    def __init__(
        self,
        arrival: Arrival,
        operations: Operations = EAGER,
        *,
        keeps_originals: bool = False,
    ) -> None:
        """Bring to the device what lies outside the blocks, and each block's cross-attention: a prompt is
        encoded by that of all blocks, before the first of them is used. ``operations`` quantise the inputs of
        the quantised layers; ``keeps_originals``: see ``Fp8Linear``.
        """
        self.device = arrival.device
        self._arrival = arrival
        self._keeps_originals = keeps_originals
        self._operations = operations
        blocks = blocks_in_order(arrival.model)[0]
        for block in blocks:
            arrival.bring(_tensors(block.attn2))
        in_blocks = {id(tensor) for block in blocks for tensor in _tensors(block)}
        arrival.bring(tensor for tensor in _tensors(arrival.model) if id(tensor) not in in_blocks)

    def ready(self) -> None:
        """Do nothing: all but the blocks is on the device."""
        pass

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """Iterate over the blocks. Once the next is taken, a block is quantised."""
        yield self._quantised(blocks)

    def _quantised(self, blocks: Sequence[Any]) -> Iterator[Any]:
        for block in blocks:
            self._arrival.bring(_tensors(block))
            with torch.inference_mode(False):
                join_projections([block])
            yield block
            with torch.inference_mode(False):
                quantise_block(block, self._operations, keeps_originals=self._keeps_originals)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
