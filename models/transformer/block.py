"""One transformer block, in the parts that lie between what ranks say to each other.

Shapes: ``x`` ``[batch, rows, n, dim]``, where a row is what shares one timestep (the whole video, or a latent
frame); tokens ``[batch, n, dim]``; queries, keys and values ``[batch, heads, n, head_dim]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models.attention.cross_attention import BlockKeys, heads, rotated, text_attention
from models.attention.shard import Shard

Function: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class BlockParts:
    """The functions a block is made of, as they are or compiled. They see a block's tensors and nothing else:
    no number of the block, no rank, so that compiled once they serve every block on every rank.
    """

    attending: Function
    values: Function
    keys: Function
    queries: Function
    rest: Function


def run_block(
    parts: BlockParts, block: Any, x: Tensor, time: Tensor, text: BlockKeys, rotation: Tensor, shard: Shard
) -> Tensor:
    """What comes out of a block. ``time``: ``[rows, 6, dim]``; ``rotation``: ``[1, 1, n, head_dim]``."""
    # apart, so that nothing of it takes memory in what follows
    attended = _attended(parts, block, x, time, rotation, shard)
    return parts.rest(block, x, attended, time, text)


def _attended(
    parts: BlockParts, block: Any, x: Tensor, time: Tensor, rotation: Tensor, shard: Shard
) -> Tensor:
    """Self-attention, before its projection outwards."""
    attn = block.attn1
    tokens = parts.attending(block, x, time)
    # between ranks each of the three travels while the next is computed
    values = shard.by_heads(parts.values(attn, tokens))
    keys = shard.by_heads(parts.keys(attn, tokens, rotation))
    queries = shard.by_heads(parts.queries(attn, tokens, rotation))
    return shard.by_tokens(shard.attention(queries(), keys(), values())).transpose(1, 2).flatten(2)


def blocks_in_order(transformer: Any) -> tuple[list[Any], frozenset[int]]:
    """The blocks as they are run, and the numbers of those that belong to a side branch.

    A block of the branch comes after the one beside it, and adds to what comes out of that one.
    """
    branch = iter(getattr(transformer, "vace_blocks", []))
    layers = getattr(transformer.config, "vace_layers", None) or []
    blocks: list[Any] = []
    beside = set()
    for layer, block in enumerate(transformer.blocks):
        blocks.append(block)
        if layer in layers:
            beside.add(len(blocks))
            blocks.append(next(branch))
    return blocks, frozenset(beside)


def modulated(norm: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``norm(x)·(1 + scale) + shift``; ``shift`` and ``scale`` are ``[rows, 1, dim]``."""
    return torch.addcmul(shift, norm(x.float()), 1 + scale).type_as(x)


def _attending(block: Any, x: Tensor, time: Tensor) -> Tensor:
    shift, scale, *_ = _modulation(block, time)
    return modulated(block.norm1, x, shift, scale).flatten(1, 2)


def _values(attn: Any, tokens: Tensor) -> Tensor:
    return heads(attn, attn.to_v(tokens))


def _keys(attn: Any, tokens: Tensor, rotation: Tensor) -> Tensor:
    return rotated(heads(attn, attn.norm_k(attn.to_k(tokens))), rotation)


def _queries(attn: Any, tokens: Tensor, rotation: Tensor) -> Tensor:
    return rotated(heads(attn, attn.norm_q(attn.to_q(tokens))), rotation)


def _rest(block: Any, x: Tensor, attended: Tensor, time: Tensor, text: BlockKeys) -> Tensor:
    """A batch of prompts shares one video up to its attention to them: there ``x`` takes its batch."""
    _, _, gate, shift, scale, ffn_gate = _modulation(block, time)
    rows = x.shape[1]
    projected = block.attn1.to_out[0](attended).unflatten(1, (rows, -1))
    x = torch.addcmul(x.float(), projected, gate).type_as(x)

    queried = block.norm2(x.float()).type_as(x).flatten(1, 2)
    x = x + text_attention(block.attn2, queried, text).unflatten(1, (rows, -1))

    fed = block.ffn(modulated(block.norm3, x, shift, scale))
    return torch.addcmul(x.float(), fed.float(), ffn_gate).type_as(x)


def _modulation(block: Any, time: Tensor) -> tuple[Tensor, ...]:
    """Shift, scale and gate of both halves, ``[rows, 1, dim]`` each; float32, as trained."""
    modulation: Tensor = block.scale_shift_table + time.float()
    return modulation.chunk(6, dim=1)


EAGER = BlockParts(_attending, _values, _keys, _queries, _rest)
