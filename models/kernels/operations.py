"""The fused operations that a transformer block asks for, and the tensors they pass on.

Two implementations: ``models.kernels.eager`` in plain torch, which defines the numbers, and
``models.kernels.fused``, which moves every value through a device's memory once.

Shapes: ``x`` and ``update`` ``[batch, rows, n, channels]``, where a row is the tokens that share one
timestep; shift, scale and gate ``[rows, 1, channels]``, float32.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST_SCALE = 1e-12
"""Lower bound on a scale, for tokens of zeros."""


class ScaledRows(NamedTuple):
    """Tokens in 8 bits, each with a scale of its own: ``values · scale`` is the token."""

    values: Tensor
    """``[..., channels]``, float8 e4m3."""
    scale: Tensor
    """``[tokens, 1]``, float32: one for each token, in order."""


Tokens: TypeAlias = Tensor | ScaledRows
"""Input of a linear layer: in the model's dtype, or in 8 bits for a layer that takes those."""


class Modulation(NamedTuple):
    """Shift and scale of a timestep: ``normalised · (1 + scale) + shift``."""

    shift: Tensor
    scale: Tensor


class Operations(Protocol):
    """The operations of a block. Results have the dtype of ``x``; statistics are computed in float32.

    With ``eight_bits`` the result is ``ScaledRows`` of what it would have been without.
    """

    def layer_norm(
        self, norm: nn.LayerNorm, x: Tensor, modulation: Modulation | None = None, *, eight_bits: bool = False
    ) -> Tokens:
        """Normalise each token over its channels, then modulate it."""

    def residual(self, x: Tensor, update: Tensor, gate: Tensor | None = None) -> Tensor:
        """Compute ``x + gate · update``. ``x`` of batch 1 is broadcast over the update's batch."""

    def residual_layer_norm(
        self,
        x: Tensor,
        update: Tensor,
        gate: Tensor | None,
        norm: nn.LayerNorm,
        modulation: Modulation | None = None,
        *,
        eight_bits: bool = False,
    ) -> tuple[Tensor, Tokens]:
        """Return the result of ``residual``, and that of ``layer_norm`` on it."""

    def rms_norm_rotate(
        self, x: Tensor, norms: Sequence[nn.RMSNorm], rotation: Tensor, heads: int
    ) -> tuple[Tensor, ...]:
        """Normalise queries or keys over all their channels, then rotate them by their positions' angles.

        ``x``: ``[batch, n, parts, channels]``, a part for each of ``norms``; ``rotation``: interleaved
        cosines and sines, float32 ``[1, 1, n, head_dim]``. Returns ``[batch, heads, n, head_dim]`` of each
        part.
        """

    def gelu(self, x: Tensor, *, eight_bits: bool = False) -> Tokens:
        """Apply GELU in its tanh approximation to ``[..., channels]``."""

    def linear_gelu(self, linear: nn.Module, x: Tokens, *, eight_bits: bool = False) -> Tokens:
        """Apply a linear layer, then ``gelu``."""

    def scaled_rows(self, x: Tensor) -> ScaledRows:
        """Quantise each token of ``[..., channels]`` by its largest absolute value."""
