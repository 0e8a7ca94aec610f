"""Triton kernel of RMS norm and rotary embedding, for queries and keys in one launch.

Importing this module needs Triton.
"""

import triton
import triton.language as tl
from torch import Tensor

from models.kernels.row_kernels import warps


@triton.jit(do_not_specialize=["tokens"])  # the size of a video compiles nothing
def rms_norm_rotate_kernel(
    x,
    first_weight,
    second_weight,
    rotation,
    out,
    tokens,
    width,
    head_dim,
    batch_stride,
    token_stride,
    part_stride,
    eps,
    BLOCK: tl.constexpr,
):
    """Normalise and rotate one part of a token; see ``rms_norm_rotate``."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    position = token % tokens
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    row = x + (token // tokens) * batch_stride + position * token_stride + part * part_stride
    value = tl.load(row + columns, mask=inside, other=0.0).to(tl.float32)
    value = value / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    if part == 0:
        weight = tl.load(first_weight + columns, mask=inside, other=0.0).to(tl.float32)
    else:
        weight = tl.load(second_weight + columns, mask=inside, other=0.0).to(tl.float32)
    value = (value * weight).to(x.dtype.element_ty).to(tl.float32)
    turns = tl.load(rotation + position * head_dim + columns % head_dim, mask=inside, other=0.0)
    real, imaginary = tl.split(tl.reshape(value, (BLOCK // 2, 2)))
    cos, sin = tl.split(tl.reshape(turns, (BLOCK // 2, 2)))
    turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    place = out + (part * tl.num_programs(0).to(tl.int64) + token) * width + columns
    tl.store(place, tl.reshape(turned, (BLOCK,)).to(out.dtype.element_ty), mask=inside)


def rms_norm_rotate(x: Tensor, weights: list[Tensor], rotation: Tensor, eps: float) -> Tensor:
    """Launch on one or two parts, ``[batch, n, parts, channels]``; return ``[parts, batch, n, channels]``.

    ``rotation``: ``[1, 1, n, head_dim]``, float32 and contiguous.
    """
    batch, tokens, parts, width = x.shape
    if x.stride(3) != 1:
        x = x.contiguous()
    out = x.new_empty(parts, batch, tokens, width)
    block = triton.next_power_of_2(width)
    rms_norm_rotate_kernel[(batch * tokens, parts)](
        x,
        weights[0],
        weights[-1],
        rotation.contiguous(),
        out,
        tokens,
        width,
        rotation.shape[-1],
        x.stride(0),
        x.stride(1),
        x.stride(2),
        eps,
        BLOCK=block,
        num_warps=warps(block),
    )
    return out
