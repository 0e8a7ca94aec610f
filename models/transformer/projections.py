"""The query, key and value projections of self-attention as one linear layer: one product for all three.

Each projection stays a layer under its own name, so that a LoRA finds it and a rank of a group can compute
one of them at a time.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.operations import Tokens
from models.weights.arrival import Arrival

NAMES = ("to_q", "to_k", "to_v")
"""Names of the projections in diffusers' ``WanAttention``, in the order of their outputs."""


class JoinedLinear(nn.Linear):
    """Linear layers of one input as one layer, their outputs side by side."""

    def __init__(self, layers: Sequence[nn.Linear], arrival: Arrival | None = None) -> None:
        """Copy the weights of ``layers``, all of which have a bias. ``arrival``: of the model, where they may
        still be as its files hold them; then they are joined where they come to rest.
        """
        outputs = sum(layer.out_features for layer in layers)
        super().__init__(layers[0].in_features, outputs, device="meta")
        self.weight = _joined([layer.weight for layer in layers], arrival)
        self.bias = _joined([layer.bias for layer in layers], arrival)

    def part(self, tokens: Tensor, outputs: slice) -> Tensor:
        """Compute the outputs of a range."""
        return F.linear(tokens, self.weight[outputs], self.bias[outputs])


def _joined(parameters: Sequence[Tensor], arrival: Arrival | None) -> nn.Parameter:
    """Return parameters one below the other as one."""
    if arrival is None:
        return nn.Parameter(torch.cat(list(parameters)), requires_grad=False)
    return arrival.join(parameters)


class Projection(nn.Module):
    """One of the layers in a joined layer, without weights of its own."""

    joined: Any
    """The ``JoinedLinear``, or a layer that took its place."""

    def __init__(self, joined: JoinedLinear, outputs: slice) -> None:
        super().__init__()
        self.joined = joined
        self.in_features, self.out_features = joined.in_features, outputs.stop - outputs.start
        self._outputs = outputs

    @property
    def weight(self) -> nn.Parameter:
        """This layer's part of the joined weight, ``[out, in]``, in the same memory."""
        return nn.Parameter(self.joined.weight[self._outputs], requires_grad=False)

    @property
    def bias(self) -> nn.Parameter | None:
        """This layer's part of the joined bias, ``[out]``, in the same memory."""
        bias = self.joined.bias
        return None if bias is None else nn.Parameter(bias[self._outputs], requires_grad=False)

    @property
    def takes_eight_bits(self) -> bool:
        """True if the joined layer takes ``ScaledRows``."""
        return getattr(self.joined, "takes_eight_bits", False)

    @property
    def merging_place(self) -> Any:
        """This layer's part of a joined weight that is not a plain tensor, for a LoRA; None for one that
        is.
        """
        rows = getattr(self.joined, "rows", None)
        return None if rows is None else rows(self._outputs)

    def forward(self, tokens: Tokens) -> Tensor:
        """Compute this layer's outputs alone."""
        part: Tensor = self.joined.part(tokens, self._outputs)
        return part


def join_projections(blocks: Iterable[Any], arrival: Arrival | None = None) -> None:
    """Join the projections of each block's self-attention, one block at a time, unless they are joined.

    ``arrival``: see ``JoinedLinear``.
    """
    for attn in (block.attn1 for block in blocks):
        if joined_projections(attn) is not None:
            continue
        joined = JoinedLinear([getattr(attn, name) for name in NAMES], arrival)
        start = 0
        for name in NAMES:
            stop = start + getattr(attn, name).out_features
            setattr(attn, name, Projection(joined, slice(start, stop)))
            start = stop


def joined_projections(attn: Any) -> Any:
    """Return the layer that computes queries, keys and values at once; None where one stands apart, as with a
    LoRA beside it.
    """
    layers = [getattr(attn, name) for name in NAMES]
    return layers[0].joined if all(isinstance(layer, Projection) for layer in layers) else None


def replace_joined(attn: Any, layer: nn.Module) -> None:
    """Put another layer of the same use in place of the joined one, such as its 8-bit form."""
    for name in NAMES:
        getattr(attn, name).joined = layer
