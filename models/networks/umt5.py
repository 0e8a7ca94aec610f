"""UMT5's encoder, the text encoder of Wan's models: T5's with a table of relative positions in each layer.

Chung et al. 2023, "UniMax"; T5: Raffel et al. 2019. Names are those of transformers' ``UMT5EncoderModel``.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.network import Network, embedding


@dataclass(frozen=True, slots=True)
class UMT5Config:
    """Configuration of an encoder."""

    vocab_size: int = 250112
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"


class UMT5Encoder(Network):
    """An encoder of one prompt at a time, which needs no mask."""

    config_type = UMT5Config
    float32_parts_beside_float16 = frozenset({"wo"})
    other_names = MappingProxyType({"encoder.embed_tokens.weight": "shared.weight"})
    left_out = ("decoder.", "lm_head.")

    def __init__(self, config: UMT5Config) -> None:
        """Raises ``ValueError`` for another feed-forward network than UMT5's."""
        super().__init__()
        if config.feed_forward_proj != "gated-gelu":
            raise ValueError(f"feed_forward_proj must be gated-gelu, not {config.feed_forward_proj}")
        self.config = config
        self.shared = embedding(config.vocab_size, config.d_model)
        self.encoder = _Stack(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids ``[1, n]`` to ``[1, n, d_model]``."""
        encoded: Tensor = self.encoder(self.shared(tokens))
        return encoded


class _Stack(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self._config = config
        self.block = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = _Norm(config)

    def forward(self, x: Tensor) -> Tensor:
        places = _buckets(x.shape[1], self._config, x.device)
        for block in self.block:
            x = block(x, places)
        normed: Tensor = self.final_layer_norm(x)
        return normed


class _Block(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(config), _FeedForwardLayer(config)])

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = _finite(self.layer[0](x, places))
        return _finite(self.layer[1](x))


class _AttentionLayer(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.SelfAttention = _Attention(config)
        self.layer_norm = _Norm(config)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        update: Tensor = self.SelfAttention(self.layer_norm(x), places)
        return x + update


class _Attention(nn.Module):
    """Attention whose scores are not scaled, but shifted by the distance of two tokens."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self._heads, inner = config.num_heads, config.num_heads * config.d_kv
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias = embedding(config.relative_attention_num_buckets, self._heads)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        queries, keys, values = (
            project(x).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        shift = self.relative_attention_bias(places).permute(2, 0, 1)[None]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=shift, scale=1.0)
        out: Tensor = self.o(attended.transpose(1, 2).flatten(2))
        return out


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.DenseReluDense = _FeedForward(config)
        self.layer_norm = _Norm(config)

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.DenseReluDense(self.layer_norm(x))
        return x + update


class _FeedForward(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(config.d_model, config.d_ff, bias=False) for _ in range(2))
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated = F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x)
        out: Tensor = self.wo(gated.to(self.wo.weight.dtype))
        return out


class _Norm(nn.Module):
    """RMS norm, computed in float32."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self._eps = config.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        scaled: Tensor = self.weight * normed.to(self.weight.dtype)
        return scaled


def _finite(x: Tensor) -> Tensor:
    """Keep float16 from overflowing, as in the original."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max
    return x.clamp(-most, most)


def _buckets(tokens: int, config: UMT5Config, device: torch.device) -> Tensor:
    """Return the row of the table of positions for each pair of tokens, ``[tokens, tokens]``: half of the
    rows for keys after the query; of either half, one half for near keys, the other for ranges of distances
    that grow.
    """
    places = torch.arange(tokens, device=device)
    offset = places[None] - places[:, None]
    half = config.relative_attention_num_buckets // 2
    near, distance = half // 2, offset.abs()
    growth = math.log(config.relative_attention_max_distance / near)
    far = near + (torch.log(distance.float() / near) / growth * (half - near)).long()
    return torch.where(distance < near, distance, far.clamp(max=half - 1)) + half * (offset > 0)
