"""Quantisation of a transformer on its way to the device, which never holds more than one of its blocks in
full precision.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from models.kernels.eager import EAGER
from models.kernels.operations import Operations
from models.speed.fp8 import quantise_block
from models.transformer.block import blocks_in_order
from models.transformer.projections import join_projections
from models.weights.carrier import Carrier
from models.weights.module_dtypes import ModuleDtypes


class QuantisedAfterUse:
    """Implements ``BlockWeights``: brings each block to the device for its use, and quantises it after that.

    So one forward pass, in full precision, leaves a quantised transformer on the device.
    """

    def __init__(
        self,
        transformer: Any,
        device: torch.device,
        operations: Operations = EAGER,
        *,
        keeps_originals: bool = False,
        dtypes: ModuleDtypes | None = None,
    ) -> None:
        """Bring to ``device`` what lies outside the blocks, and each block's cross-attention: a prompt is
        encoded by that of all blocks, before the first of them is used. ``operations`` quantise the inputs of
        the quantised layers; ``keeps_originals``: see ``Fp8Linear``; ``dtypes``: those of the blocks once
        they are on the device, by default the transformer's.
        """
        self.device = device
        self._carrier = Carrier(device)
        self._dtypes = dtypes or ModuleDtypes(transformer, transformer.dtype)
        self._keeps_originals = keeps_originals
        self._operations = operations
        blocks = blocks_in_order(transformer)[0]
        for block in blocks:
            self._carrier.bring(block.attn2, self._dtypes)
        in_blocks = {id(tensor) for block in blocks for tensor in (*block.parameters(), *block.buffers())}
        with torch.inference_mode(False):  # a parameter cannot hold an inference tensor
            for tensor in (*transformer.parameters(), *transformer.buffers()):
                if id(tensor) not in in_blocks:
                    tensor.data = tensor.data.to(device)

    def ready(self) -> None:
        """Do nothing: all but the blocks is on the device."""
        pass

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """Iterate over the blocks. Once the next is taken, a block is quantised."""
        yield self._quantised(blocks)

    def _quantised(self, blocks: Sequence[Any]) -> Iterator[Any]:
        for block in blocks:
            self._carrier.bring(block, self._dtypes)
            with torch.inference_mode(False):
                join_projections([block])
            yield block
            with torch.inference_mode(False):
                quantise_block(block, self._operations, keeps_originals=self._keeps_originals)
