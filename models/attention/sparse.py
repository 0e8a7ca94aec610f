"""Sparse attention without training: each block of queries attends to the key blocks that it scores highest.

A block is represented by the mean of its tokens, and a pair of blocks by the product of their means, as in
SpargeAttn (https://arxiv.org/abs/2502.18137); a fixed share of the blocks with the highest products is kept
for each head, the same work for all of them. Kept whatever they score are a block's own keys, those of its
neighbours, and the first block's, on which heads lean as a sink (Sparse VideoGen,
https://arxiv.org/abs/2502.01776). The means say most where a block is a compact neighbourhood, so tokens come
in ``models.attention.token_order``; the first steps and the first block of the transformer stay dense
(Sol-Attn, https://arxiv.org/abs/2607.24027).
"""

import torch
from torch import Tensor

from models.kernels.block_sparse import block_sparse_attention

_MOST_TOKENS, _FEWEST_TOKENS = 128, 16
"""Limits on the tokens of a block; the kernel multiplies no fewer than 16."""
_BLOCKS = 8
"""Blocks that a short sequence is cut into at least, as far as the limits allow."""
_ALWAYS = 4
"""Blocks that are kept whatever they score: the block itself, one on either side, and the first."""


class SparseAttention:
    """Implements ``models.attention.kernels.AttentionKernel`` for queries and keys of the same tokens, in
    their order.
    """

    def __init__(self, sparsity: float, size: int | None = None) -> None:
        """``sparsity``: share of the key blocks that are left out, at least 0 and below 1; ``size``: tokens
        of a block, None for what suits the sequence.
        """
        self.sparsity = sparsity
        self._size = size

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from each block of queries to the blocks of keys that it keeps."""
        size = self._size or block_tokens(keys.shape[2])
        kept = kept_blocks(queries, keys, size, self.sparsity)
        return block_sparse_attention(queries, keys, values, kept, size)


def block_tokens(tokens: int) -> int:
    """Return the tokens of a block in a sequence of ``tokens``."""
    size = _MOST_TOKENS
    while size > _FEWEST_TOKENS and _BLOCKS * size > tokens:
        size //= 2
    return size


def kept_blocks(queries: Tensor, keys: Tensor, size: int, sparsity: float) -> Tensor:
    """Choose the key blocks of each query block, ``[batch, heads, blocks, count]``, int32, ascending.

    ``size``: tokens of a block. At least the blocks that are always kept remain.
    """
    scores = _means(queries, size) @ _means(keys, size).transpose(2, 3)
    blocks = scores.shape[3]
    numbers = torch.arange(blocks, device=scores.device)
    always = ((numbers[:, None] - numbers).abs() <= 1) | (numbers == 0)
    count = min(max(blocks - int(sparsity * blocks), _ALWAYS), blocks)
    best = scores.masked_fill(always, torch.inf).topk(count, dim=3, sorted=False).indices
    return best.sort(dim=3).values.int()


def _means(tokens: Tensor, size: int) -> Tensor:
    """Return the mean of each block of tokens, ``[batch, heads, blocks, head_dim]``, float32."""
    whole = tokens.shape[2] // size * size
    means = [tokens[:, :, :whole].unflatten(2, (-1, size)).mean(dim=3, dtype=torch.float32)] if whole else []
    if whole < tokens.shape[2]:
        means.append(tokens[:, :, whole:].mean(dim=2, keepdim=True, dtype=torch.float32))
    return torch.cat(means, dim=2)
