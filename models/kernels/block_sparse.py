"""Block-sparse attention: each block of queries attends to some blocks of keys, from a list for each head.

Shapes: queries, keys and values ``[batch, heads, n, head_dim]``, cut into blocks of consecutive tokens, the
last of which may be shorter; ``kept`` ``[batch, heads, query blocks, count]``, int32: the numbers of the key
blocks, no two alike.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op


def block_sparse_attention(
    queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, block_tokens: int
) -> Tensor:
    """Attend to the kept blocks only: on CUDA by a Triton kernel, elsewhere in plain torch.

    ``block_tokens``: tokens of a block, a power of two, at least 16.
    """
    if not queries.is_cuda:
        return block_sparse_in_plain_torch(queries, keys, values, kept, block_tokens)
    attended: Tensor = _block_sparse_attention(queries, keys, values, kept, block_tokens)
    return attended.transpose(1, 2)


def block_sparse_in_plain_torch(
    queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, block_tokens: int
) -> Tensor:
    """Attend to all blocks with those masked that are not kept: this defines the numbers, and saves no time.

    One block of queries after the other, so that no mask is larger than they need.
    """
    blocks, tokens = -(-keys.shape[2] // block_tokens), keys.shape[2]
    allowed = kept.new_zeros((*kept.shape[:3], blocks), dtype=torch.bool)
    allowed.scatter_(3, kept.long(), torch.ones_like(kept, dtype=torch.bool))
    parts = [
        F.scaled_dot_product_attention(
            some,
            keys,
            values,
            attn_mask=allowed[:, :, number, None].repeat_interleave(block_tokens, dim=3)[..., :tokens],
        )
        for number, some in enumerate(queries.split(block_tokens, dim=2))
    ]
    return torch.cat(parts, dim=2)


@custom_op("wan_serve::block_sparse_attention", mutates_args=())
def _block_sparse_attention(
    queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, block_tokens: int
) -> Tensor:
    from models.kernels import block_sparse_kernel

    with torch.cuda.device_of(queries):
        return block_sparse_kernel.block_sparse_attention(queries, keys, values, kept, block_tokens)


@_block_sparse_attention.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, block_tokens: int) -> Tensor:
    batch, heads, tokens, head_dim = queries.shape
    return queries.new_empty(batch, tokens, heads, head_dim)
