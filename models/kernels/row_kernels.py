"""Triton kernels with one program a token: residual, LayerNorm, modulation, GELU, 8-bit rows.

A program holds its token in registers, so that each value is read and written once. Importing this module
needs Triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.operations import FP8, LARGEST, SMALLEST_SCALE

_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


@triton.jit
def store_row(value, out, scales, token, width, columns, inside, EIGHT_BITS: tl.constexpr):
    """Store a token ``value``, float32 and zero outside; rounded as ``out``'s dtype, or to 8 bits."""
    place = out + token * width + columns
    if EIGHT_BITS:
        scale = tl.maximum(tl.max(tl.abs(value), 0) / _LARGEST, _SMALLEST_SCALE)
        tl.store(scales + token, scale)
        value = tl.minimum(tl.maximum(value / scale, -_LARGEST), _LARGEST)
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["x_tokens", "row_tokens", "rows"])  # the size of a video compiles nothing
def residual_norm_kernel(
    x,
    update,
    gate,
    weight,
    bias,
    shift,
    scale,
    summed,
    normed,
    scales,
    x_tokens,
    row_tokens,
    rows,
    width,
    gate_stride,
    modulation_stride,
    eps,
    EIGHT_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add a gated update to a token, then normalise it; see ``residual_norm``.

    A pointer of None leaves its part out.
    """
    token = tl.program_id(0).to(tl.int64)
    row = (token // row_tokens) % rows
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    dtype = x.dtype.element_ty
    value = tl.load(x + (token % x_tokens) * width + columns, mask=inside, other=0.0).to(tl.float32)
    if update is not None:
        change = tl.load(update + token * width + columns, mask=inside, other=0.0).to(tl.float32)
        if gate is not None:
            change *= tl.load(gate + row * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = (value + change).to(dtype)
        tl.store(summed + token * width + columns, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if normed is not None:
        centred = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
        value = centred / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
        if weight is not None:
            value *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
            value += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        if shift is not None:
            place = row * modulation_stride + columns
            value *= 1 + tl.load(scale + place, mask=inside, other=0.0).to(tl.float32)
            value += tl.load(shift + place, mask=inside, other=0.0).to(tl.float32)
        value = value.to(dtype).to(tl.float32)
        store_row(value, normed, scales, token, width, columns, inside, EIGHT_BITS)


@triton.jit
def scaled_rows_kernel(x, out, scales, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """Quantise a token; see ``scaled_rows``."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    loaded = tl.load(x + token * width + columns, mask=inside, other=0.0)
    value = loaded.to(tl.float32)
    if GELU:
        # (1 + tanh(u)) / 2 is sigmoid(2 u); the factor is 2 √(2/π)
        value *= tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
        value = value.to(x.dtype.element_ty).to(tl.float32)
    store_row(value, out, scales, token, width, columns, inside, True)


def residual_norm(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    affine: tuple[Tensor | None, Tensor | None],
    modulation: tuple[Tensor | None, Tensor | None],
    eps: float | None,
    eight_bits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch residual and norm; return the sum, the normed tokens and their scales, each empty if not asked
    for.

    ``update`` None leaves the residual out, ``eps`` None the norm. ``affine``: weight and bias of the norm.
    """
    x = x.contiguous()
    update = None if update is None else update.contiguous()
    shape = (x if update is None else update).shape
    _, rows, row_tokens, width = shape
    tokens = shape[0] * rows * row_tokens
    summed = x.new_empty(shape if update is not None else 0)
    normed = x.new_empty(shape if eps is not None else 0, dtype=FP8 if eight_bits else x.dtype)
    scales = x.new_empty((tokens, 1) if eight_bits else 0, dtype=torch.float32)
    shift, scale = modulation
    block = triton.next_power_of_2(width)
    residual_norm_kernel[(tokens,)](
        x,
        update,
        gate,
        *affine,
        shift,
        scale,
        None if update is None else summed,
        None if eps is None else normed,
        scales if eight_bits else None,
        x.shape[0] * rows * row_tokens,
        row_tokens,
        rows,
        width,
        0 if gate is None else gate.stride(0),
        0 if shift is None else shift.stride(0),
        eps or 0.0,
        EIGHT_BITS=eight_bits,
        BLOCK=block,
        num_warps=warps(block),
    )
    return summed, normed, scales


def scaled_rows(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    """Launch the quantising of tokens, after GELU if ``gelu``; return the 8-bit values and the scales."""
    x = x.contiguous()
    width = x.shape[-1]
    tokens = x.numel() // width
    values = torch.empty_like(x, dtype=FP8)
    scales = x.new_empty((tokens, 1), dtype=torch.float32)
    block = triton.next_power_of_2(width)
    scaled_rows_kernel[(tokens,)](x, values, scales, width, GELU=gelu, BLOCK=block, num_warps=warps(block))
    return values, scales


def warps(block: int) -> int:
    """Return the warps of a program on ``block`` values: 16 values a thread, at most 16 warps."""
    return min(max(block // 512, 1), 16)
