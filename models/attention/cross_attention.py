"""Cross-attention to text and image, and the head split that it shares with self-attention.

Runs on the projections of diffusers' ``WanAttention``.

Shapes: tokens ``[batch, n, dim]``; queries, keys and values ``[batch, heads, n, head_dim]``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.operations import Tokens


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """Image keys and values of every block, one tensor each per block, ``[1, heads, n, head_dim]``."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class TextKeys:
    """Text keys and values of every block, one tensor per block, and one bias for all blocks."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None
    """Additive attention bias, ``[batch, 1, 1, n]``; None where every key counts once."""
    image: ImageKeys | None = None
    """Image keys and values, shared by all prompts of the batch."""

    def of_block(self, number: int) -> "BlockKeys":
        """Return the keys and values of block ``number``."""
        image = self.image
        return BlockKeys(
            self.keys[number],
            self.values[number],
            self.bias,
            None if image is None else image.keys[number],
            None if image is None else image.values[number],
        )


@dataclass(frozen=True, slots=True)
class BlockKeys:
    """Cross-attention keys and values of one block; see ``TextKeys``."""

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    image_keys: Tensor | None
    image_values: Tensor | None


def text_attention(attn: Any, tokens: Tokens, text: BlockKeys) -> Tensor:
    """Attend from the video tokens to the text, and to the image if there is one; projected outwards.

    ``tokens`` of batch 1 are broadcast over a batch of prompts.
    """
    batch = text.keys.shape[0]
    queries = heads(attn, attn.norm_q(attn.to_q(tokens))).expand(batch, -1, -1, -1)
    attended = F.scaled_dot_product_attention(queries, text.keys, text.values, attn_mask=text.bias)
    if text.image_keys is not None and text.image_values is not None:
        keys, values = (part.expand(batch, -1, -1, -1) for part in (text.image_keys, text.image_values))
        attended = attended + F.scaled_dot_product_attention(queries, keys, values)
    projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
    return projected


def image_keys(attns: Iterable[Any], tokens: Tensor) -> ImageKeys:
    """Compute the keys and values of the embedded images, ``[1, n, dim]``, for every block, once per run."""
    pairs = [
        (heads(attn, attn.norm_added_k(attn.add_k_proj(tokens))), heads(attn, attn.add_v_proj(tokens)))
        for attn in attns
    ]
    return ImageKeys(keys=tuple(key for key, _ in pairs), values=tuple(value for _, value in pairs))


def text_keys(attns: Iterable[Any], tokens: Tensor, padding_count: int) -> TextKeys:
    """Compute the keys and values of one prompt for every block, once per run.

    ``tokens``: the embedded prompt, ``[1, n, dim]``; the last token represents ``padding_count`` equal
    padding tokens. Equal keys get equal scores, so softmax over all of them equals softmax over one of them
    with log(padding_count) added to its score.
    """
    pairs = [(heads(attn, attn.norm_k(attn.to_k(tokens))), heads(attn, attn.to_v(tokens))) for attn in attns]
    bias = None
    if padding_count > 1:
        bias = tokens.new_zeros(1, 1, 1, tokens.shape[1])
        bias[..., -1] = log(padding_count)
    return TextKeys(tuple(key for key, _ in pairs), tuple(value for _, value in pairs), bias)


def stacked(prompts: list[TextKeys]) -> TextKeys:
    """Stack prompts into one batch. Pads shorter prompts with keys of bias −∞, which get no attention."""
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


def heads(attn: Any, tokens: Tensor) -> Tensor:
    """Split into heads: ``[batch, n, dim]`` to ``[batch, heads, n, head_dim]``."""
    # b n (heads d) -> b heads n d
    split: Tensor = tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)
    return split
