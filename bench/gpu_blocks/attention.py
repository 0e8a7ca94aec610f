"""Every attention kernel that runs here, at the sizes of a 14B's video, with its error against float32.

Sparse attention is compared with float32 attention to the same blocks, since noise has none that matter less.
Its rate is that of dense attention in its time.
"""

from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu_blocks.bench import Bench
from models.attention.kernel_choice import why_not_sparse
from models.attention.kernels import KERNELS, AttentionKernel, why_not
from models.attention.sparse import SparseAttention, block_tokens, kept_blocks
from models.errors import first_line
from models.kernels.block_sparse import block_sparse_in_plain_torch
from models.kernels.scaled_heads import scaled_heads

Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values."""

_QUERIES = 256
"""Queries whose attention is also computed in float32."""
_SPARSITIES = (0.5, 0.7)


def measure(bench: Bench) -> None:
    """Measure the kernels on views with tokens before heads, as a block has them."""
    heads, head_dim = (2, 32) if bench.tiny else (40, 128)
    for tokens in (512,) if bench.tiny else (32760, 75600):
        parts = torch.randn(3, 1, tokens, heads, head_dim, device=bench.device, dtype=bench.dtype)
        queries, keys, values = parts.transpose(2, 3)
        expected = F.scaled_dot_product_attention(
            queries[:, :, :_QUERIES].float(), keys.float(), values.float()
        )
        inputs = queries, keys, values
        for name, kernel in KERNELS.items():
            reason = why_not(name, bench.device, bench.dtype, head_dim)
            _row(bench, name, kernel, inputs, expected, reason)
            if name == "flash3_fp8" and reason is None:
                seconds = bench.seconds(partial(_quantise, *inputs))
                note = "statistics and values of queries, keys and values"
                bench.found(
                    "figure", f"{name}, {tokens} tokens, its quantising", seconds * 1e3, "ms", note=note
                )
        reason = why_not_sparse(bench.device, bench.dtype, head_dim)
        for sparsity in _SPARSITIES:
            expected = _to_kept(inputs, sparsity)
            _row(bench, f"sparsity {sparsity}", SparseAttention(sparsity), inputs, expected, reason)


def _row(
    bench: Bench,
    name: str,
    kernel: AttentionKernel,
    inputs: Inputs,
    expected: Tensor,
    reason: str | None,
) -> None:
    """Measure a kernel; ``reason``: why it cannot run, None if it can."""
    queries, keys, _ = inputs
    name = f"{name}, {queries.shape[2]} tokens"
    if reason is not None:
        bench.found("note", name, note=f"it {reason}")
        return
    try:
        error = (kernel(*inputs)[:, :, :_QUERIES].float() - expected).norm() / expected.norm()
        seconds = bench.seconds(lambda: kernel(*inputs))
    except Exception as fault:  # of one library, that the others are measured after
        bench.found("failure", name, note=first_line(fault))
        return
    operations = 4 * queries.numel() * keys.shape[2]
    rate = f"{operations / seconds / 1e12:.3g} TFLOP/s, error {float(error):.4f}"
    bench.found("figure", name, seconds * 1e3, "ms", note=rate)


def _quantise(queries: Tensor, keys: Tensor, values: Tensor) -> None:
    scaled_heads(queries)
    scaled_heads(keys, centred=True)
    scaled_heads(values)


def _to_kept(inputs: Inputs, sparsity: float) -> Tensor:
    """Attend from the first queries in float32 to the blocks that sparse attention keeps for them."""
    queries, keys, values = inputs
    size = block_tokens(keys.shape[2])
    kept = kept_blocks(queries, keys, size, sparsity)[:, :, : _QUERIES // size]
    first = queries[:, :, :_QUERIES].float()
    return block_sparse_in_plain_torch(first, keys.float(), values.float(), kept, size)
