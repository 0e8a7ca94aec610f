"""Triton kernel of block-sparse attention: an online softmax over a list of key blocks.

The scheme is FlashAttention's (https://arxiv.org/abs/2205.14135), with the keys taken from a list. Importing
this module needs Triton.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

_KEYS, _STAGES = 64, 3
"""Keys that a program multiplies by at once, and how many such parts it holds. With 128 queries of 128
channels they take 128 KiB of the 227 KiB of shared memory that a Hopper device has for a program.
"""


@triton.jit
def load_tokens(start, numbers, count, stride, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Load tokens of a head by their numbers, zeros from ``count`` on and beyond the head's channels."""
    columns = tl.arange(0, BLOCK)
    place = numbers[:, None].to(tl.int64) * stride + columns[None, :]
    return tl.load(start + place, mask=(numbers < count)[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)


@triton.jit(do_not_specialize=["heads", "query_count", "key_count", "kept_count"])
def block_sparse_kernel(
    queries,
    keys,
    values,
    kept,
    out,
    heads,
    query_count,
    key_count,
    kept_count,
    query_batch_stride,
    query_head_stride,
    query_stride,
    key_batch_stride,
    key_head_stride,
    key_stride,
    value_batch_stride,
    value_head_stride,
    value_stride,
    scale,
    HEAD_DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Attend from one block of queries of a head; see ``block_sparse_attention``.

    ``scale`` is that of the scores, times log2(e).
    """
    number, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    sample, own_head = head // heads, head % heads
    query = number * TOKENS + tl.arange(0, TOKENS)
    queries += sample * query_batch_stride + own_head * query_head_stride
    keys += sample * key_batch_stride + own_head * key_head_stride
    values += sample * value_batch_stride + own_head * value_head_stride
    kept += (head * tl.num_programs(0) + number) * kept_count
    asking = load_tokens(queries, query, query_count, query_stride, HEAD_DIM, BLOCK)
    attended = tl.zeros((TOKENS, BLOCK), tl.float32)
    sums = tl.zeros((TOKENS,), tl.float32)
    highest = tl.full((TOKENS,), float("-inf"), tl.float32)
    for step in range(kept_count * (TOKENS // KEYS)):
        # the first part of a block has at least one key, so ``highest`` is finite after it
        part = tl.load(kept + step // (TOKENS // KEYS)) * (TOKENS // KEYS) + step % (TOKENS // KEYS)
        key = part * KEYS + tl.arange(0, KEYS)
        told = load_tokens(keys, key, key_count, key_stride, HEAD_DIM, BLOCK)
        scores = tl.dot(asking, tl.trans(told), input_precision="ieee") * scale
        scores = tl.where((key < key_count)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights, shrunk = tl.exp2(scores - higher[:, None]), tl.exp2(highest - higher)
        sums, highest = sums * shrunk + tl.sum(weights, 1), higher
        carried = load_tokens(values, key, key_count, value_stride, HEAD_DIM, BLOCK)
        weights = weights.to(carried.dtype)
        attended = tl.dot(weights, carried, attended * shrunk[:, None], input_precision="ieee")
    columns = tl.arange(0, BLOCK)
    out += (sample * query_count * heads + own_head) * HEAD_DIM
    place = query[:, None].to(tl.int64) * heads * HEAD_DIM + columns[None, :]
    attended = (attended / sums[:, None]).to(out.dtype.element_ty)
    tl.store(out + place, attended, mask=(query < query_count)[:, None] & (columns < HEAD_DIM)[None, :])


def block_sparse_attention(
    queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, block_tokens: int
) -> Tensor:
    """Launch; return ``[batch, n, heads, head_dim]``. See ``models.kernels.block_sparse``."""
    queries, keys, values = (
        tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (queries, keys, values)
    )
    batch, heads, tokens, head_dim = queries.shape
    out = queries.new_empty(batch, tokens, heads, head_dim)
    block_sparse_kernel[(triton.cdiv(tokens, block_tokens), batch * heads)](
        queries,
        keys,
        values,
        kept.contiguous(),
        out,
        heads,
        tokens,
        keys.shape[2],
        kept.shape[3],
        *queries.stride()[:3],
        *keys.stride()[:3],
        *values.stride()[:3],
        math.log2(math.e) / math.sqrt(head_dim),
        HEAD_DIM=head_dim,
        TOKENS=block_tokens,
        KEYS=min(block_tokens, _KEYS),
        BLOCK=max(triton.next_power_of_2(head_dim), 16),
        num_warps=8 if block_tokens >= 128 else 4,
        num_stages=_STAGES,
    )
    return out
