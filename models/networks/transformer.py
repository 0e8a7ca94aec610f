"""The transformer of Wan's models, as its folder stores it: parameters, and the small networks before its
blocks. ``models.transformer`` runs it.

Names and numbers are those of diffusers' ``WanTransformer3DModel`` and ``WanVACETransformer3DModel``.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.network import Network
from models.networks.rotary import RotaryTable

_PERIOD = 10_000.0
"""Longest wavelength of a timestep's sinusoids."""


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Configuration of a transformer; what is not stored is that of Wan2.1's 14B."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None
    vace_layers: tuple[int, ...] = ()
    """Layers that have a control block beside them."""
    vace_in_channels: int = 96

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.num_attention_heads * self.attention_head_dim


class WanTransformer(Network):
    """A transformer with the parameters of its blocks."""

    config_type = TransformerConfig
    float32_parts = frozenset({"rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})

    def __init__(self, config: TransformerConfig) -> None:
        """Raises ``ValueError`` for control blocks in places where there can be none."""
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.rope = RotaryTable(config.attention_head_dim, patch, config.rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, patch, stride=patch)
        self.condition_embedder = _ConditionEmbedder(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        if config.vace_layers:
            if 0 not in config.vace_layers or max(config.vace_layers) >= config.num_layers:
                raise ValueError("control blocks must begin at layer 0 and end with the layers")
            self.vace_patch_embedding = nn.Conv3d(config.vace_in_channels, dim, patch, stride=patch)
            self.vace_blocks = nn.ModuleList(
                _ControlBlock(config, first=place == 0) for place in range(len(config.vace_layers))
            )
        self.norm_out = nn.LayerNorm(dim, config.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, config.out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, dim))


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = _Attention(config)
        self.attn2 = _Attention(config, config.added_kv_proj_dim)
        self.norm2 = nn.LayerNorm(dim, eps) if config.cross_attn_norm else nn.Identity()
        self.ffn = _FeedForward(dim, config.ffn_dim, dim, "tanh")
        self.norm3 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, dim))


class _ControlBlock(_Block):
    """A block of VACE beside one of the others; ``first`` of them, it takes the control latents in."""

    def __init__(self, config: TransformerConfig, *, first: bool) -> None:
        super().__init__(config)
        self.proj_in = nn.Linear(config.dim, config.dim) if first else None
        self.proj_out = nn.Linear(config.dim, config.dim)


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig, image_dim: int | None = None) -> None:
        super().__init__()
        self.heads, dim, eps = config.num_attention_heads, config.dim, config.eps
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = (nn.RMSNorm(dim, eps) for _ in range(2))
        self.add_k_proj = self.add_v_proj = None
        if image_dim is not None:
            self.add_k_proj, self.add_v_proj = (nn.Linear(image_dim, dim) for _ in range(2))
            self.norm_added_k = nn.RMSNorm(dim, eps)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int, out: int, approximate: str = "none") -> None:
        super().__init__()
        # a list, so that the layers have the names under which they are stored
        self.net = nn.ModuleList([_Gelu(dim, inner, approximate), nn.Identity(), nn.Linear(inner, out)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class _Gelu(nn.Module):
    def __init__(self, dim: int, inner: int, approximate: str) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner)
        self._approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate=self._approximate)


class _ConditionEmbedder(nn.Module):
    """Embeds timesteps, prompts and pictures."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.timesteps_proj = _Sinusoids(config.freq_dim)
        self.time_embedder = _Embedder(config.freq_dim, dim, nn.SiLU())
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = _Embedder(config.text_dim, dim, nn.GELU("tanh"))
        self.image_embedder = None
        if config.image_dim is not None:
            self.image_embedder = _ImageEmbedder(config.image_dim, dim, config.pos_embed_seq_len)


class _Sinusoids(nn.Module):
    """Cosines and sines of timesteps, in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._half = channels // 2

    def forward(self, timesteps: Tensor) -> Tensor:
        places = torch.arange(self._half, dtype=torch.float32, device=timesteps.device)
        turns = timesteps[:, None].float() * torch.exp(-math.log(_PERIOD) * places / self._half)
        return torch.cat([turns.cos(), turns.sin()], dim=-1)


class _Embedder(nn.Module):
    def __init__(self, channels: int, dim: int, between: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, dim), nn.Linear(dim, dim)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.linear_2(self.between(self.linear_1(x)))
        return embedded


class _ImageEmbedder(nn.Module):
    """``positions``: tokens of two pictures, whose positions are added; None for one picture."""

    def __init__(self, channels: int, dim: int, positions: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(dim)
        self.ff = _FeedForward(channels, channels, dim)
        self.pos_embed = None
        if positions is not None:
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed pictures ``[pictures, n, channels]``; those of a pair one after the other."""
        if self.pos_embed is not None:
            tokens = tokens.reshape(-1, self.pos_embed.shape[1], tokens.shape[-1]) + self.pos_embed
        hidden = self.ff(self.norm1(tokens.float()).type_as(tokens))
        normed: Tensor = self.norm2(hidden.float())
        return normed.type_as(hidden)
