"""The fused operations in plain torch: they define the numbers, run on CPUs, and are what is compiled."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.operations import FP8, LARGEST, SMALLEST_SCALE, Modulation, ScaledRows, Tokens


class EagerOperations:
    """Implements ``Operations`` by torch's own operators, several passes over the memory each."""

    def layer_norm(
        self, norm: nn.LayerNorm, x: Tensor, modulation: Modulation | None = None, *, eight_bits: bool = False
    ) -> Tokens:
        """Normalise each token over its channels, then modulate it."""
        normed = norm(x.float())
        if modulation is not None:
            normed = torch.addcmul(modulation.shift, normed, 1 + modulation.scale)
        return self._in_bits(normed.type_as(x), eight_bits)

    def residual(self, x: Tensor, update: Tensor, gate: Tensor | None = None) -> Tensor:
        """Compute ``x + gate · update``."""
        return x + update if gate is None else torch.addcmul(x.float(), update, gate).type_as(x)

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
        x = self.residual(x, update, gate)
        return x, self.layer_norm(norm, x, modulation, eight_bits=eight_bits)

    def rms_norm_rotate(
        self, x: Tensor, norms: Sequence[nn.RMSNorm], rotation: Tensor, heads: int
    ) -> tuple[Tensor, ...]:
        """Normalise queries or keys over all their channels, then rotate them by their positions' angles."""
        # b n (heads d) -> b heads n d
        return tuple(
            rotated(norm(part).unflatten(2, (heads, -1)).transpose(1, 2), rotation)
            for norm, part in zip(norms, x.unbind(2), strict=True)
        )

    def gelu(self, x: Tensor, *, eight_bits: bool = False) -> Tokens:
        """Apply GELU in its tanh approximation."""
        return self._in_bits(F.gelu(x, approximate="tanh"), eight_bits)

    def linear_gelu(self, linear: nn.Module, x: Tokens, *, eight_bits: bool = False) -> Tokens:
        """Apply a linear layer, then GELU."""
        return self.gelu(linear(x), eight_bits=eight_bits)

    def scaled_rows(self, x: Tensor) -> ScaledRows:
        """Quantise each token by its largest absolute value."""
        scale = (x.abs().amax(dim=-1, keepdim=True).float() / LARGEST).clamp(min=SMALLEST_SCALE)
        return ScaledRows((x / scale).clamp(-LARGEST, LARGEST).to(FP8), scale.view(-1, 1))

    def _in_bits(self, tokens: Tensor, eight_bits: bool) -> Tokens:
        return self.scaled_rows(tokens) if eight_bits else tokens


EAGER = EagerOperations()


def rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Apply the rotary position embedding: rotate each pair of channels, as a complex number, by its
    position's angle.

    ``tokens``: ``[batch, heads, n, head_dim]``; ``rotation``: interleaved cosines and sines, float32 ``[1, 1,
    n, head_dim]``.
    """
    pairs, turns = (part.float().unflatten(-1, (-1, 2)) for part in (tokens, rotation))
    if torch.compiler.is_compiling():  # torch.compile generates no code for complex numbers
        (real, imaginary), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    else:  # in eager mode complex multiplication is fifteen times as fast on a CPU
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).type_as(tokens)
