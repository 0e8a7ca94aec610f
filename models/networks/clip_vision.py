"""CLIP's vision tower, the image encoder of Wan2.1's image-to-video models, up to its last layer but one.

Radford et al. 2021. Names are those of transformers' ``CLIPVisionModel``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.network import Network, embedding


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": _quick_gelu}


@dataclass(frozen=True, slots=True)
class CLIPVisionConfig:
    """Configuration of a vision tower."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class CLIPVision(Network):
    """A vision tower. Its last layer and norm are stored, but Wan was trained on what comes before them."""

    config_type = CLIPVisionConfig
    left_out = (
        *("visual_projection.", "text_model.", "text_projection.", "logit_scale"),
        "embeddings.position_ids",
    )

    def __init__(self, config: CLIPVisionConfig) -> None:
        """Raises ``ValueError`` for an activation that no CLIP has."""
        super().__init__()
        if config.hidden_act not in _ACTIVATIONS:
            raise ValueError(f"hidden_act must be {' or '.join(_ACTIVATIONS)}, not {config.hidden_act}")
        self.config = config
        self.embeddings = _Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pictures ``[n, 3, size, size]`` to ``[n, 1 + patches, hidden_size]``."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers[:-1]:
            x = layer(x)
        encoded: Tensor = x
        return encoded


class _Embeddings(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        dim, size = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.patch_embedding = nn.Conv2d(config.num_channels, dim, size, stride=size, bias=False)
        self.position_embedding = embedding((config.image_size // size) ** 2 + 1, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        return tokens + self.position_embedding.weight


class _Encoder(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Layer(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.self_attn, self.mlp = _Attention(dim, config.num_attention_heads), _FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        update: Tensor = self.mlp(self.layer_norm2(x))
        return x + update


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            project(x).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self._act = _ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self._act(self.fc1(x)))
        return out
