"""The fused operations: operators of torch's library that launch Triton kernels, imported at the first call.

Each operator has a fake implementation (shapes and dtypes alone), so that a forward pass can be traced on
fake tensors without a device or Triton. An operator reads each of its arguments once and writes each of its
results once, nothing else: the bytes it moves are those of its tensors. Results that were not asked for are
empty.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.library import custom_op

from models.kernels.operations import FP8, Modulation, ScaledRows, Tokens

_NAMESPACE = "wan_serve"


@custom_op(f"{_NAMESPACE}::residual_norm", mutates_args=())
def _residual_norm(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    eps: float | None,
    eight_bits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from models.kernels import row_kernels

    with torch.cuda.device_of(x):
        return row_kernels.residual_norm(x, update, gate, (weight, bias), (shift, scale), eps, eight_bits)


@_residual_norm.register_fake
def _(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    eps: float | None,
    eight_bits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (x if update is None else update).shape
    return (
        x.new_empty(shape if update is not None else 0),
        x.new_empty(shape if eps is not None else 0, dtype=FP8 if eight_bits else x.dtype),
        x.new_empty((shape[:-1].numel(), 1) if eight_bits else 0, dtype=torch.float32),
    )


@custom_op(f"{_NAMESPACE}::rms_norm_rotate", mutates_args=())
def _rms_norm_rotate(x: Tensor, weights: list[Tensor], rotation: Tensor, eps: float) -> Tensor:
    from models.kernels import rotation_kernel

    with torch.cuda.device_of(x):
        return rotation_kernel.rms_norm_rotate(x, weights, rotation, eps)


@_rms_norm_rotate.register_fake
def _(x: Tensor, weights: list[Tensor], rotation: Tensor, eps: float) -> Tensor:
    batch, tokens, parts, width = x.shape
    return x.new_empty(parts, batch, tokens, width)


@custom_op(f"{_NAMESPACE}::scaled_rows", mutates_args=())
def _scaled_rows(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    from models.kernels import row_kernels

    with torch.cuda.device_of(x):
        return row_kernels.scaled_rows(x, gelu)


@_scaled_rows.register_fake
def _(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=FP8), x.new_empty((x.shape[:-1].numel(), 1), dtype=torch.float32)


class FusedOperations:
    """Implements ``Operations`` by one kernel each.

    Needs Triton and a CUDA device, or fake tensors, or Triton's interpreter.
    """

    def layer_norm(
        self, norm: nn.LayerNorm, x: Tensor, modulation: Modulation | None = None, *, eight_bits: bool = False
    ) -> Tokens:
        """Normalise each token over its channels, then modulate it."""
        shift, scale = modulation or (None, None)
        _, normed, scales = _residual_norm(
            x, None, None, norm.weight, norm.bias, shift, scale, norm.eps, eight_bits
        )
        return ScaledRows(normed, scales) if eight_bits else normed

    def residual(self, x: Tensor, update: Tensor, gate: Tensor | None = None) -> Tensor:
        """Compute ``x + gate · update``."""
        summed: Tensor
        summed, _, _ = _residual_norm(x, update, gate, None, None, None, None, None, False)
        return summed

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
        shift, scale = modulation or (None, None)
        summed, normed, scales = _residual_norm(
            x, update, gate, norm.weight, norm.bias, shift, scale, norm.eps, eight_bits
        )
        return summed, ScaledRows(normed, scales) if eight_bits else normed

    def rms_norm_rotate(
        self, x: Tensor, norms: Sequence[nn.RMSNorm], rotation: Tensor, heads: int
    ) -> tuple[Tensor, ...]:
        """Normalise queries or keys over all their channels, then rotate them by their positions' angles."""
        eps = norms[0].eps
        assert eps is not None, "Wan's norms have an epsilon of their own"
        turned: Tensor = _rms_norm_rotate(x, [norm.weight for norm in norms], rotation, eps)
        # parts b n (heads d) -> parts b heads n d, views as FlashAttention and cuDNN read them
        return tuple(turned.unflatten(3, (heads, -1)).transpose(2, 3))

    def gelu(self, x: Tensor, *, eight_bits: bool = False) -> Tokens:
        """Apply GELU in its tanh approximation: torch's own kernel where nothing follows."""
        if not eight_bits:
            return nn.functional.gelu(x, approximate="tanh")
        return ScaledRows(*_scaled_rows(x, True))

    def linear_gelu(self, linear: nn.Module, x: Tokens, *, eight_bits: bool = False) -> Tokens:
        """Apply a linear layer, then GELU, by a kernel each."""
        return self.gelu(linear(x), eight_bits=eight_bits)

    def scaled_rows(self, x: Tensor) -> ScaledRows:
        """Quantise each token by its largest absolute value."""
        return ScaledRows(*_scaled_rows(x, False))


FUSED = FusedOperations()
