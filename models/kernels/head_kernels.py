"""Triton kernels that quantise each head of queries, keys or values: statistics first, then the values.

Both read their input once, and the second writes a byte a value. Importing this module needs Triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.operations import FP8, LARGEST, SMALLEST_SCALE
from models.kernels.scaled_heads import CHUNK, STATISTICS

_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)
_STATISTICS = tl.constexpr(STATISTICS)
_INFINITY = tl.constexpr(float("inf"))
_VALUES = 8192
"""Values that a program holds at once."""


@triton.jit(do_not_specialize=["tokens", "heads"])  # the size of a video compiles nothing
def head_statistics_kernel(
    x,
    statistics,
    tokens,
    heads,
    batch_stride,
    head_stride,
    token_stride,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Collect the statistics of one chunk of a head's tokens; see ``head_statistics``."""
    chunk = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    base = x + (head // heads) * batch_stride + (head % heads) * head_stride + columns[None, :]
    total = tl.zeros((BLOCK,), tl.float32)
    low = tl.full((BLOCK,), _INFINITY, tl.float32)
    high = tl.full((BLOCK,), -_INFINITY, tl.float32)
    for start in range(0, CHUNK, ROWS):
        token = chunk * CHUNK + start + tl.arange(0, ROWS)
        inside = (token < tokens)[:, None] & (columns < HEAD_DIM)[None, :]
        place = base + token[:, None].to(tl.int64) * token_stride
        value = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(value, 0)
        low = tl.minimum(low, tl.min(tl.where(inside, value, _INFINITY), 0))
        high = tl.maximum(high, tl.max(tl.where(inside, value, -_INFINITY), 0))
    out = statistics + (head * tl.num_programs(0) + chunk) * _STATISTICS * HEAD_DIM + columns
    tl.store(out, total, mask=columns < HEAD_DIM)
    tl.store(out + HEAD_DIM, low, mask=columns < HEAD_DIM)
    tl.store(out + 2 * HEAD_DIM, high, mask=columns < HEAD_DIM)


@triton.jit(do_not_specialize=["tokens", "heads"])
def scaled_heads_kernel(
    x,
    statistics,
    values,
    scales,
    tokens,
    heads,
    batch_stride,
    head_stride,
    token_stride,
    CENTRED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Quantise one chunk of a head's tokens; see ``scaled_heads``."""
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    low = tl.full((BLOCK,), _INFINITY, tl.float32)
    high = tl.full((BLOCK,), -_INFINITY, tl.float32)
    for start in range(0, chunks, GROUP):
        number = start + tl.arange(0, GROUP)
        inside = (number < chunks)[:, None] & (columns < HEAD_DIM)[None, :]
        place = statistics + (head * chunks + number[:, None]) * _STATISTICS * HEAD_DIM + columns[None, :]
        if CENTRED:
            total += tl.sum(tl.load(place, mask=inside, other=0.0), 0)
        low = tl.minimum(low, tl.min(tl.load(place + HEAD_DIM, mask=inside, other=_INFINITY), 0))
        high = tl.maximum(high, tl.max(tl.load(place + 2 * HEAD_DIM, mask=inside, other=-_INFINITY), 0))
    mean = total / tokens
    furthest = tl.where(columns < HEAD_DIM, tl.maximum(high - mean, mean - low), 0.0)
    scale = tl.maximum(tl.max(furthest, 0) / _LARGEST, _SMALLEST_SCALE)
    if chunk == 0:
        tl.store(scales + head, scale)
    base = x + (head // heads) * batch_stride + (head % heads) * head_stride + columns[None, :]
    out = values + ((head // heads) * tokens * heads + head % heads) * HEAD_DIM + columns[None, :]
    for start in range(0, CHUNK, ROWS):
        token = chunk * CHUNK + start + tl.arange(0, ROWS)
        inside = (token < tokens)[:, None] & (columns < HEAD_DIM)[None, :]
        token = token[:, None].to(tl.int64)
        value = tl.load(base + token * token_stride, mask=inside, other=0.0).to(tl.float32)
        value = tl.minimum(tl.maximum((value - mean[None, :]) / scale, -_LARGEST), _LARGEST)
        tl.store(out + token * heads * HEAD_DIM, value.to(values.dtype.element_ty), mask=inside)


def head_statistics(x: Tensor, chunk: int = CHUNK) -> Tensor:
    """Launch on ``[batch, heads, n, head_dim]``; return ``[batch, heads, chunks, 3, head_dim]``, float32: the
    sum, the least and the largest value of each channel in each chunk of tokens.
    """
    batch, heads, tokens, head_dim = x.shape
    if x.stride(3) != 1:
        x = x.contiguous()
    chunks = triton.cdiv(tokens, chunk)
    statistics = x.new_empty((batch, heads, chunks, STATISTICS, head_dim), dtype=torch.float32)
    block, rows = _tile(head_dim, chunk)
    head_statistics_kernel[(chunks, batch * heads)](
        x,
        statistics,
        tokens,
        heads,
        *x.stride()[:3],
        HEAD_DIM=head_dim,
        CHUNK=chunk,
        ROWS=rows,
        BLOCK=block,
        num_warps=4,
    )
    return statistics


def scaled_heads(x: Tensor, statistics: Tensor, centred: bool, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Launch on ``[batch, heads, n, head_dim]``; return the values, ``[batch, n, heads, head_dim]`` in 8
    bits, and the scales, ``[batch, heads]``.
    """
    batch, heads, tokens, head_dim = x.shape
    if x.stride(3) != 1:
        x = x.contiguous()
    values = x.new_empty((batch, tokens, heads, head_dim), dtype=FP8)
    scales = x.new_empty((batch, heads), dtype=torch.float32)
    block, rows = _tile(head_dim, chunk)
    scaled_heads_kernel[(triton.cdiv(tokens, chunk), batch * heads)](
        x,
        statistics,
        values,
        scales,
        tokens,
        heads,
        *x.stride()[:3],
        CENTRED=centred,
        HEAD_DIM=head_dim,
        CHUNK=chunk,
        ROWS=rows,
        GROUP=16,
        BLOCK=block,
        num_warps=4,
    )
    return values, scales


def _tile(head_dim: int, chunk: int) -> tuple[int, int]:
    """Return the channels and tokens that a program holds at once."""
    block = triton.next_power_of_2(head_dim)
    return block, min(max(_VALUES // block, 1), chunk)
