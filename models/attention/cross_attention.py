"""What the two attentions of a Wan block are made of, on the projections of diffusers' ``WanAttention``.

Shapes: tokens ``[batch, n, dim]``; queries, keys and values ``[batch, heads, n, head_dim]``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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

    def of_block(self, number: int) -> "BlockKeys":
        """The keys and values of one block."""
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
    """What one block attends to beside the video; see ``TextKeys``."""

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    image_keys: Tensor | None
    image_values: Tensor | None


def text_attention(attn: Any, tokens: Tensor, text: BlockKeys) -> Tensor:
    """Attention of the video's tokens to the prompt. One video may attend to a batch of prompts."""
    batch = text.keys.shape[0]
    queries = heads(attn, attn.norm_q(attn.to_q(tokens))).expand(batch, -1, -1, -1)
    attended = F.scaled_dot_product_attention(queries, text.keys, text.values, attn_mask=text.bias)
    if text.image_keys is not None and text.image_values is not None:
        keys, values = (part.expand(batch, -1, -1, -1) for part in (text.image_keys, text.image_values))
        attended = attended + F.scaled_dot_product_attention(queries, keys, values)
    projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
    return projected


def image_keys(attns: Iterable[Any], tokens: Tensor) -> ImageKeys:
    """The keys and values of the embedded pictures, ``[1, n, dim]``, in every block, once for the run."""
    pairs = [
        (heads(attn, attn.norm_added_k(attn.add_k_proj(tokens))), heads(attn, attn.add_v_proj(tokens)))
        for attn in attns
    ]
    return ImageKeys(keys=tuple(key for key, _ in pairs), values=tuple(value for _, value in pairs))


def text_keys(attns: Iterable[Any], tokens: Tensor, filling: int) -> TextKeys:
    """The keys and values of one prompt in every block, computed once for the run.

    ``tokens``: the embedded prompt, ``[1, n, dim]``, whose last token stands for ``filling`` equal ones.
    Equal keys get equal scores, so softmax over all of them is softmax over one with log(filling) added to
    its score.
    """
    pairs = [(heads(attn, attn.norm_k(attn.to_k(tokens))), heads(attn, attn.to_v(tokens))) for attn in attns]
    bias = None
    if filling > 1:
        bias = tokens.new_zeros(1, 1, 1, tokens.shape[1])
        bias[..., -1] = log(filling)
    return TextKeys(tuple(key for key, _ in pairs), tuple(value for _, value in pairs), bias)


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


def heads(attn: Any, tokens: Tensor) -> Tensor:
    """``[batch, n, dim]`` to ``[batch, heads, n, head_dim]``."""
    split: Tensor = tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)
    return split


def rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding: pairs of channels are complex numbers, turned by their position.

    ``rotation``: cosines and sines in turn, float32 ``[1, 1, n, head_dim]``.
    """
    pairs, turns = (part.float().unflatten(-1, (-1, 2)) for part in (tokens, rotation))
    if torch.compiler.is_compiling():  # the compiler makes no code for complex numbers
        (real, imaginary), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    else:  # and without it they are fifteen times as fast on a CPU
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).type_as(tokens)
