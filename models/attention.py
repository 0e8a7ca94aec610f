"""The two attentions of a Wan block, on the projections of diffusers' ``WanAttention``.

Shapes: tokens ``[batch, n, dim]``; queries, keys and values ``[batch, heads, n, head_dim]``.
"""

from dataclasses import dataclass
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.shard import Shard


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """What the blocks attend to in a run's pictures: a key and a value tensor for each, of batch 1."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class TextKeys:
    """What the blocks attend to in the prompt: a key and a value tensor for each, and one bias for all."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None
    """Added to the scores, ``[batch, 1, 1, n]``; None where every key counts once."""
    image: ImageKeys | None = None
    """The pictures that every prompt of the batch goes with."""

    @property
    def batch(self) -> int:
        return self.keys[0].shape[0]


def self_attention(attn: Any, tokens: Tensor, rotation: Tensor, shard: Shard) -> Tensor:
    """Attention among the video's tokens. ``rotation``: unit complex numbers, ``[1, 1, n, head_dim / 2]``."""
    # between ranks each of the three travels while the next is computed
    values = shard.by_heads(_heads(attn, attn.to_v(tokens)))
    keys = shard.by_heads(_rotated(_heads(attn, attn.norm_k(attn.to_k(tokens))), rotation))
    queries = shard.by_heads(_rotated(_heads(attn, attn.norm_q(attn.to_q(tokens))), rotation))
    return _out(attn, shard.by_tokens(shard.attention(queries(), keys(), values())))


def text_attention(attn: Any, tokens: Tensor, text: TextKeys, block: int) -> Tensor:
    """Attention of the video's tokens to the prompt. One video may attend to a batch of prompts."""
    queries = _heads(attn, attn.norm_q(attn.to_q(tokens)))
    queries = queries.expand(text.batch, -1, -1, -1)
    attended = F.scaled_dot_product_attention(
        queries, text.keys[block], text.values[block], attn_mask=text.bias
    )
    if text.image is not None:
        keys = text.image.keys[block].expand(text.batch, -1, -1, -1)
        values = text.image.values[block].expand(text.batch, -1, -1, -1)
        attended = attended + F.scaled_dot_product_attention(queries, keys, values)
    return _out(attn, attended)


def image_keys(attns: list[Any], tokens: Tensor) -> ImageKeys:
    """The keys and values of the embedded pictures, ``[1, n, dim]``, in every block, once for the run."""
    return ImageKeys(
        keys=tuple(_heads(attn, attn.norm_added_k(attn.add_k_proj(tokens))) for attn in attns),
        values=tuple(_heads(attn, attn.add_v_proj(tokens)) for attn in attns),
    )


def text_keys(attns: list[Any], tokens: Tensor, filling: int) -> TextKeys:
    """The keys and values of one prompt in every block, computed once for the run.

    ``tokens``: the embedded prompt, ``[1, n, dim]``, whose last token stands for ``filling`` equal ones.
    Equal keys get equal scores, so softmax over all of them is softmax over one with log(filling) added to
    its score.
    """
    keys = tuple(_heads(attn, attn.norm_k(attn.to_k(tokens))) for attn in attns)
    values = tuple(_heads(attn, attn.to_v(tokens)) for attn in attns)
    if filling == 1:
        return TextKeys(keys, values, None)
    bias = tokens.new_zeros(1, 1, 1, tokens.shape[1])
    bias[..., -1] = log(filling)
    return TextKeys(keys, values, bias)


def stacked(prompts: list[TextKeys]) -> TextKeys:
    """Several prompts as one batch. Shorter ones are padded with keys that nothing attends to."""
    longest = max(prompt.keys[0].shape[2] for prompt in prompts)
    missing = [longest - prompt.keys[0].shape[2] for prompt in prompts]
    blocks = range(len(prompts[0].keys))
    biases = [p.keys[0].new_zeros(1, 1, 1, p.keys[0].shape[2]) if p.bias is None else p.bias for p in prompts]
    unbiased = not any(missing) and all(prompt.bias is None for prompt in prompts)
    return TextKeys(
        keys=tuple(_padded([p.keys[i] for p in prompts], missing) for i in blocks),
        values=tuple(_padded([p.values[i] for p in prompts], missing) for i in blocks),
        bias=None
        if unbiased
        else torch.cat([F.pad(b, (0, m), value=float("-inf")) for b, m in zip(biases, missing, strict=True)]),
    )


def _padded(tensors: list[Tensor], missing: list[int]) -> Tensor:
    return torch.cat([F.pad(t, (0, 0, 0, m)) for t, m in zip(tensors, missing, strict=True)])


def _heads(attn: Any, tokens: Tensor) -> Tensor:
    heads: Tensor = tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)
    return heads


def _rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding: pairs of channels are complex numbers, turned by their position."""
    pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
    turned: Tensor = torch.view_as_real(pairs * rotation).flatten(-2)
    return turned.type_as(tokens)


def _out(attn: Any, attended: Tensor) -> Tensor:
    projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
    return projected
