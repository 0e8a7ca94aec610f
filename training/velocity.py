"""The forward pass of Wan's transformer in training: a batch of videos, each with its own prompt.

Computes what diffusers' ``WanTransformer3DModel`` computes with a timestep per latent frame and prompts
padded to 512 tokens, at a lower cost: one timestep embedding per latent frame instead of one per token, and
one key that stands for all padding tokens of a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.limits import TEXT_TOKENS


@dataclass(frozen=True, slots=True)
class Prompts:
    """Embedded prompts ``[n, tokens, text_dim]``, and the number of unpadded tokens of each, ``[n]``."""

    embeddings: Tensor
    lengths: Tensor

    def __getitem__(self, which: Any) -> "Prompts":
        return Prompts(self.embeddings[which], self.lengths[which])

    @property
    def bias(self) -> Tensor:
        """Attention bias for the tokens and the padding key, ``[n, 1, 1, tokens + 1]``."""
        places = torch.arange(self.embeddings.shape[1], device=self.lengths.device)
        own = torch.where(places < self.lengths[:, None], 0.0, float("-inf"))
        padding_bias = torch.log((TEXT_TOKENS - self.lengths).float())
        return torch.cat([own, padding_bias[:, None]], dim=1)[:, None, None]


class Velocity:
    """Predicts velocities with ``transformer``, differentiable with respect to its weights."""

    def __init__(self, transformer: Any, *, compiled: bool = False) -> None:
        self._model = transformer
        self._block: Callable[..., Tensor] = torch.compile(_block, dynamic=True) if compiled else _block

    def __call__(self, latents: Tensor, timesteps: Tensor, prompts: Prompts) -> Tensor:
        """Predict float32 velocities in the shape of ``latents`` ``[n, channels, f, h, w]``; ``timesteps``
        ``[n, f]``, 0 … 1000."""
        model = self._model
        frames = latents.shape[2]
        tokens = model.patch_embedding(latents).flatten(2).transpose(1, 2)
        x = tokens.unflatten(1, (frames, -1))  # n (f tokens) dim -> n f tokens dim
        cos, sin = model.rope(latents)
        cos, sin = (part.float().transpose(1, 2) for part in (cos[..., 0::2], sin[..., 1::2]))
        embedder = model.condition_embedder
        time = embedder.time_embedder(embedder.timesteps_proj(timesteps.flatten())).unflatten(0, (-1, frames))
        block_time = embedder.time_proj(F.silu(time)).unflatten(2, (6, -1))[:, :, :, None]
        filled = F.pad(prompts.embeddings, (0, 0, 0, 1))
        places = torch.arange(filled.shape[1] - 1, device=filled.device)
        filled[:, :-1] *= (places < prompts.lengths[:, None])[..., None]
        text = embedder.text_embedder(filled)
        bias = prompts.bias.to(x.dtype)
        for block in model.blocks:
            x = self._block(block, x, block_time, text, bias, cos, sin)
        shift, scale = (model.scale_shift_table + time[:, :, None]).float().chunk(2, dim=2)
        x = model.norm_out(x.float()) * (1 + scale) + shift
        return self._unpatchify(model.proj_out(x), latents).float()

    def _unpatchify(self, x: Tensor, latents: Tensor) -> Tensor:
        _, p_h, p_w = self._model.config.patch_size
        _, _, frames, height, width = latents.shape
        # n f (h w) (ph pw c) -> n c f (h ph) (w pw)
        grid = x.reshape(x.shape[0], frames, height // p_h, width // p_w, p_h, p_w, -1)
        return grid.permute(0, 6, 1, 2, 4, 3, 5).reshape(x.shape[0], -1, frames, height, width)


def _block(
    block: Any, x: Tensor, time: Tensor, text: Tensor, bias: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    frames = x.shape[1]
    modulation = (block.scale_shift_table[:, None, :, None] + time).float()
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.unbind(2)
    tokens = (block.norm1(x.float()) * (1 + scale) + shift).flatten(1, 2)
    x = x + _self_attention(block.attn1, tokens, cos, sin).unflatten(1, (frames, -1)) * gate
    queried = block.norm2(x.float()).flatten(1, 2)
    x = x + _text_attention(block.attn2, queried, text, bias).unflatten(1, (frames, -1))
    fed = block.ffn(block.norm3(x.float()) * (1 + ffn_scale) + ffn_shift)
    passed: Tensor = x + fed * ffn_gate
    return passed


def _self_attention(attn: Any, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    queries = _rotated(_heads(attn, attn.norm_q(attn.to_q(tokens).float())), cos, sin)
    keys = _rotated(_heads(attn, attn.norm_k(attn.to_k(tokens).float())), cos, sin)
    return _projected(attn, _attended(queries, keys, _heads(attn, attn.to_v(tokens))))


def _text_attention(attn: Any, tokens: Tensor, text: Tensor, bias: Tensor) -> Tensor:
    queries = _heads(attn, attn.norm_q(attn.to_q(tokens).float()))
    keys = _heads(attn, attn.norm_k(attn.to_k(text).float()))
    return _projected(attn, _attended(queries, keys, _heads(attn, attn.to_v(text)), bias))


def _attended(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend in plain operations: the backward pass of PyTorch's kernel is slow on a CPU for short
    sequences.
    """
    queries, keys = queries.type_as(values), keys.type_as(values)
    scores = (queries @ keys.transpose(2, 3)).float() * queries.shape[3] ** -0.5
    if bias is not None:
        scores = scores + bias
    attended: Tensor = scores.softmax(dim=3).type_as(values) @ values
    return attended


def _projected(attn: Any, attended: Tensor) -> Tensor:
    projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
    return projected


def _heads(attn: Any, tokens: Tensor) -> Tensor:
    split: Tensor = tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)
    return split


def _rotated(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imaginary = tokens.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)
