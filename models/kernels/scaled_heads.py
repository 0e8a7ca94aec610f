"""Quantising of queries, keys and values to 8 bits for attention, with one scale for each head.

Keys can be centred first: their mean over the tokens is subtracted, which adds the same number to all scores
of a query and so changes no softmax, while what all keys have in common takes no part of the range any more
(SageAttention, https://arxiv.org/abs/2410.02367, section 4.2).

A head's scale needs its largest value among all tokens, so no kernel that makes queries and keys token by
token can quantise them as well: two passes follow it, one for the statistics and one that quantises. With
Ulysses they run on a rank's own heads, after the exchange.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from models.kernels.operations import FP8, LARGEST, SMALLEST_SCALE

_NAMESPACE = "wan_serve"
CHUNK = 1024
"""Tokens of a head whose statistics one program of a kernel collects."""
STATISTICS = 3
"""Of each channel in a chunk: sum, least and largest value."""


class ScaledHeads(NamedTuple):
    """Queries, keys or values in 8 bits, with a scale for each head: ``values · scale`` is what they were."""

    values: Tensor
    """``[batch, heads, n, head_dim]``, float8 e4m3, in memory with tokens before heads."""
    scale: Tensor
    """``[batch, heads]``, float32."""


def scaled_heads(x: Tensor, *, centred: bool = False) -> ScaledHeads:
    """Quantise ``[batch, heads, n, head_dim]``: on CUDA by Triton kernels, elsewhere in plain torch.

    ``centred``: subtract the mean over the tokens from each channel before.
    """
    if not x.is_cuda:
        return scaled_heads_in_plain_torch(x, centred=centred)
    values, scale = _scaled_heads(x, _head_statistics(x), centred)
    return ScaledHeads(values.transpose(1, 2), scale)


def scaled_heads_in_plain_torch(x: Tensor, *, centred: bool = False) -> ScaledHeads:
    """Quantise as ``scaled_heads`` does: this defines the numbers."""
    exact = x.float()
    if centred:
        exact = exact - exact.mean(dim=2, keepdim=True)
    scale = (exact.abs().amax(dim=(2, 3)) / LARGEST).clamp(min=SMALLEST_SCALE)
    values = (exact / scale[:, :, None, None]).clamp(-LARGEST, LARGEST).to(FP8)
    return ScaledHeads(values.transpose(1, 2).contiguous().transpose(1, 2), scale)


@custom_op(f"{_NAMESPACE}::head_statistics", mutates_args=())
def _head_statistics(x: Tensor) -> Tensor:
    from models.kernels import head_kernels

    with torch.cuda.device_of(x):
        return head_kernels.head_statistics(x)


@_head_statistics.register_fake
def _(x: Tensor) -> Tensor:
    batch, heads, tokens, head_dim = x.shape
    return x.new_empty((batch, heads, -(-tokens // CHUNK), STATISTICS, head_dim), dtype=torch.float32)


@custom_op(f"{_NAMESPACE}::scaled_heads", mutates_args=())
def _scaled_heads(x: Tensor, statistics: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    from models.kernels import head_kernels

    with torch.cuda.device_of(x):
        return head_kernels.scaled_heads(x, statistics, centred)


@_scaled_heads.register_fake
def _(x: Tensor, statistics: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, head_dim = x.shape
    return (
        x.new_empty((batch, tokens, heads, head_dim), dtype=FP8),
        x.new_empty((batch, heads), dtype=torch.float32),
    )
