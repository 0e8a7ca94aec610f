"""Every attention kernel that runs here, at the sizes of a 14B's video, with its error against float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu_blocks.bench import Bench
from models.attention.kernels import KERNELS, why_not
from models.errors import first_line

_QUERIES = 256
"""Queries whose attention is also computed in float32."""


def measure(bench: Bench) -> None:
    """Measure the kernels on views with tokens before heads, as a block has them."""
    heads, head_dim = (2, 32) if bench.tiny else (40, 128)
    for tokens in (512,) if bench.tiny else (32760, 75600):
        parts = torch.randn(3, 1, tokens, heads, head_dim, device=bench.device, dtype=bench.dtype)
        queries, keys, values = parts.transpose(2, 3)
        expected = F.scaled_dot_product_attention(
            queries[:, :, :_QUERIES].float(), keys.float(), values.float()
        )
        for name in KERNELS:
            reason = why_not(name, bench.device, bench.dtype, head_dim)
            if reason is not None:
                bench.found("note", f"{name}, {tokens} tokens", note=f"it {reason}")
                continue
            try:
                _one(bench, name, (queries, keys, values), expected)
            except Exception as error:  # of one library, that the others are measured after
                bench.found("failure", f"{name}, {tokens} tokens", note=first_line(error))


def _one(bench: Bench, name: str, inputs: tuple[Tensor, Tensor, Tensor], expected: Tensor) -> None:
    kernel = KERNELS[name]
    queries, keys, _ = inputs
    error = (kernel(*inputs)[:, :, :_QUERIES].float() - expected).norm() / expected.norm()
    seconds = bench.seconds(lambda: kernel(*inputs))
    operations = 4 * queries.numel() * keys.shape[2]
    rate = f"{operations / seconds / 1e12:.3g} TFLOP/s, error {float(error):.4f}"
    bench.found("figure", f"{name}, {queries.shape[2]} tokens", seconds * 1e3, "ms", note=rate)
