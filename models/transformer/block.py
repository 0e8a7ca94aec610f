"""A transformer block, split at the points where ranks communicate.

Shapes: ``x`` (the residual stream) ``[batch, rows, n, dim]``, where a row is the tokens that share one
timestep (the whole video, or one latent frame); tokens ``[batch, n, dim]``; queries, keys and values
``[batch, heads, n, head_dim]``.
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
    """Functions a block is composed of, eager or compiled.

    They depend on a block's tensors only, neither on its number nor on the rank, so one compilation serves
    every block on every rank.
    """

    attention_input: Function
    values: Function
    keys: Function
    queries: Function
    after_attention: Function


def run_block(
    parts: BlockParts, block: Any, x: Tensor, time: Tensor, text: BlockKeys, rotation: Tensor, shard: Shard
) -> Tensor:
    """Run one block on ``x``. ``time``: ``[rows, 6, dim]``; ``rotation``: ``[1, 1, n, head_dim]``."""
    # a function of its own, so that its intermediate tensors are freed before the feed-forward network
    attended = _self_attention(parts, block, x, time, rotation, shard)
    return parts.after_attention(block, x, attended, time, text)


def _self_attention(
    parts: BlockParts, block: Any, x: Tensor, time: Tensor, rotation: Tensor, shard: Shard
) -> Tensor:
    """Attend among the video tokens, without the output projection."""
    attn = block.attn1
    tokens = parts.attention_input(block, x, time)
    # between ranks, each of the three travels while the next is computed
    values = shard.by_heads(parts.values(attn, tokens))
    keys = shard.by_heads(parts.keys(attn, tokens, rotation))
    queries = shard.by_heads(parts.queries(attn, tokens, rotation))
    return shard.by_tokens(shard.attention(queries(), keys(), values())).transpose(1, 2).flatten(2)


def blocks_in_order(transformer: Any) -> tuple[list[Any], frozenset[int]]:
    """Return the blocks in the order they run, and the positions of the control (VACE) blocks among them.

    A control block runs right after the main block of its layer, and its output is added to that block's
    output.
    """
    control_blocks = iter(getattr(transformer, "vace_blocks", []))
    layers = getattr(transformer.config, "vace_layers", None) or []
    blocks: list[Any] = []
    control_positions = set()
    for layer, block in enumerate(transformer.blocks):
        blocks.append(block)
        if layer in layers:
            control_positions.add(len(blocks))
            blocks.append(next(control_blocks))
    return blocks, frozenset(control_positions)


def modulated(norm: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Compute ``norm(x)·(1 + scale) + shift``; ``shift`` and ``scale`` are ``[rows, 1, dim]``."""
    return torch.addcmul(shift, norm(x.float()), 1 + scale).type_as(x)


def _attention_input(block: Any, x: Tensor, time: Tensor) -> Tensor:
    shift, scale, *_ = _modulation(block, time)
    return modulated(block.norm1, x, shift, scale).flatten(1, 2)


def _values(attn: Any, tokens: Tensor) -> Tensor:
    return heads(attn, attn.to_v(tokens))


def _keys(attn: Any, tokens: Tensor, rotation: Tensor) -> Tensor:
    return rotated(heads(attn, attn.norm_k(attn.to_k(tokens))), rotation)


def _queries(attn: Any, tokens: Tensor, rotation: Tensor) -> Tensor:
    return rotated(heads(attn, attn.norm_q(attn.to_q(tokens))), rotation)


def _after_attention(block: Any, x: Tensor, attended: Tensor, time: Tensor, text: BlockKeys) -> Tensor:
    """Add self-attention, cross-attention and the feed-forward network to the residual stream.

    ``x`` of batch 1 takes the batch of the prompts at cross-attention: up to there all prompts share one
    video.
    """
    _, _, gate, shift, scale, ffn_gate = _modulation(block, time)
    rows = x.shape[1]
    projected = block.attn1.to_out[0](attended).unflatten(1, (rows, -1))
    x = torch.addcmul(x.float(), projected, gate).type_as(x)

    queried = block.norm2(x.float()).type_as(x).flatten(1, 2)
    x = x + text_attention(block.attn2, queried, text).unflatten(1, (rows, -1))

    fed = block.ffn(modulated(block.norm3, x, shift, scale))
    return torch.addcmul(x.float(), fed.float(), ffn_gate).type_as(x)


def _modulation(block: Any, time: Tensor) -> tuple[Tensor, ...]:
    """Return shift, scale and gate of self-attention, then of the feed-forward network, ``[rows, 1, dim]``
    each.

    They are float32, as in training.
    """
    modulation: Tensor = block.scale_shift_table + time.float()
    return modulation.chunk(6, dim=1)


EAGER = BlockParts(_attention_input, _values, _keys, _queries, _after_attention)
