"""A transformer block, split at the points where ranks communicate.

Shapes: ``x`` (the residual stream) ``[batch, rows, n, dim]``, where a row is the tokens that share one
timestep (the whole video, or one latent frame); tokens ``[batch, n, dim]``; queries, keys and values
``[batch, heads, n, head_dim]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from models.attention.cross_attention import BlockKeys, heads, text_attention
from models.attention.shard import Shard
from models.kernels.eager import EAGER
from models.kernels.operations import Modulation, Operations, Tokens
from models.parallel.plan import ParallelPlan
from models.transformer.projections import joined_projections

Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class BlockParts:
    """Functions a block is composed of, eager or compiled, and the operations that they use.

    They depend on a block's tensors only, neither on its number nor on the rank, so one compilation serves
    every block on every rank.
    """

    operations: Operations
    together: bool
    """Compute queries, keys and values by ``projections``; else one after the other, for a group in which
    each travels between ranks while the next is computed.
    """
    attention_input: Function
    projections: Function
    values: Function
    keys: Function
    queries: Function
    after_attention: Function


def uncompiled_parts(plan: ParallelPlan, operations: Operations = EAGER) -> BlockParts:
    """Return the parts of a block as they are, without compilation."""
    return BlockParts(
        operations,
        plan.ulysses == 1,
        _attention_input,
        _projections,
        _values,
        _keys,
        _queries,
        _after_attention,
    )


def run_block(
    parts: BlockParts, block: Any, x: Tensor, time: Tensor, text: BlockKeys, rotation: Tensor, shard: Shard
) -> Tensor:
    """Run one block on ``x``. ``time``: ``[rows, 6, dim]``; ``rotation``: ``[1, 1, n, head_dim]``."""
    # a function of its own, so that its intermediate tensors are freed before the feed-forward network
    attended = _self_attention(parts, block, x, time, rotation, shard)
    done: Tensor = parts.after_attention(parts.operations, block, x, attended, time, text)
    return done


def _self_attention(
    parts: BlockParts, block: Any, x: Tensor, time: Tensor, rotation: Tensor, shard: Shard
) -> Tensor:
    """Attend among the video tokens, without the output projection."""
    attn, operations = block.attn1, parts.operations
    tokens = parts.attention_input(operations, block, x, time)
    if parts.together:
        queries, keys, values = map(shard.by_heads, parts.projections(operations, attn, tokens, rotation))
    else:
        values = shard.by_heads(parts.values(attn, tokens))
        keys = shard.by_heads(parts.keys(operations, attn, tokens, rotation))
        queries = shard.by_heads(parts.queries(operations, attn, tokens, rotation))
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


def _attention_input(operations: Operations, block: Any, x: Tensor, time: Tensor) -> Tokens:
    shift, scale, *_ = _modulation(block, time)
    eight_bits = _take_eight_bits(block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
    tokens = operations.layer_norm(block.norm1, x, Modulation(shift, scale), eight_bits=eight_bits)
    return _in_sequence(tokens)


def _projections(
    operations: Operations, attn: Any, tokens: Tokens, rotation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries and keys, normed and rotated, and values."""
    joined = joined_projections(attn)
    if joined is None:
        queries, keys = (part(operations, attn, tokens, rotation) for part in (_queries, _keys))
        return queries, keys, _values(attn, tokens)
    product = joined(tokens).unflatten(2, (3, -1))  # b n (three d) -> b n three d
    norms = attn.norm_q, attn.norm_k
    queries, keys = operations.rms_norm_rotate(product[:, :, :2], norms, rotation, attn.heads)
    return queries, keys, heads(attn, product[:, :, 2])


def _values(attn: Any, tokens: Tokens) -> Tensor:
    return heads(attn, attn.to_v(tokens))


def _keys(operations: Operations, attn: Any, tokens: Tokens, rotation: Tensor) -> Tensor:
    (keys,) = operations.rms_norm_rotate(attn.to_k(tokens)[:, :, None], [attn.norm_k], rotation, attn.heads)
    return keys


def _queries(operations: Operations, attn: Any, tokens: Tokens, rotation: Tensor) -> Tensor:
    (queries,) = operations.rms_norm_rotate(
        attn.to_q(tokens)[:, :, None], [attn.norm_q], rotation, attn.heads
    )
    return queries


def _after_attention(
    operations: Operations, block: Any, x: Tensor, attended: Tensor, time: Tensor, text: BlockKeys
) -> Tensor:
    """Add self-attention, cross-attention and the feed-forward network to the residual stream.

    ``x`` of batch 1 takes the batch of the prompts at cross-attention: up to there all prompts share one
    video.
    """
    _, _, gate, shift, scale, ffn_gate = _modulation(block, time)
    # a function of its own, so that its intermediate tensors are freed before the feed-forward network
    x, fed = _attend_to_text(operations, block, x, attended, gate, Modulation(shift, scale), text)
    widen, narrow = block.ffn.net[0].proj, block.ffn.net[2]
    fed = operations.linear_gelu(widen, fed, eight_bits=_take_eight_bits(narrow))
    return operations.residual(x, narrow(fed), ffn_gate)


def _attend_to_text(
    operations: Operations,
    block: Any,
    x: Tensor,
    attended: Tensor,
    gate: Tensor,
    modulation: Modulation,
    text: BlockKeys,
) -> tuple[Tensor, Tokens]:
    """Add self-attention and cross-attention; return the residual stream and the feed-forward's input."""
    rows = x.shape[1]
    projected = block.attn1.to_out[0](attended).unflatten(1, (rows, -1))
    x, queried = operations.residual_layer_norm(
        x, projected, gate, block.norm2, eight_bits=_take_eight_bits(block.attn2.to_q)
    )
    projected = text_attention(block.attn2, _in_sequence(queried), text).unflatten(1, (rows, -1))
    eight_bits = _take_eight_bits(block.ffn.net[0].proj)
    return operations.residual_layer_norm(x, projected, None, block.norm3, modulation, eight_bits=eight_bits)


def _take_eight_bits(*layers: Any) -> bool:
    """Return whether all of these layers take ``ScaledRows``: those in fp8 do, with nothing beside them."""
    return all(getattr(layer, "takes_eight_bits", False) for layer in layers)


def _in_sequence(tokens: Tokens) -> Tokens:
    """Put the tokens of all rows into one sequence, ``[batch, rows, n, dim]`` to ``[batch, n, dim]``."""
    if isinstance(tokens, Tensor):
        return tokens.flatten(1, 2)
    return tokens._replace(values=tokens.values.flatten(1, 2))


def _modulation(block: Any, time: Tensor) -> tuple[Tensor, ...]:
    """Return shift, scale and gate of self-attention, then of the feed-forward network, ``[rows, 1, dim]``
    each.

    They are float32, as in training.
    """
    modulation: Tensor = block.scale_shift_table + time.float()
    return modulation.chunk(6, dim=1)
