"""Wan's causal VAE as its folder stores it: parameters alone. ``models.vae`` runs it.

Names and numbers are those of diffusers' ``AutoencoderKLWan``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from models.networks.autoencoder_layers import (
    AttentionBlock,
    MiddleBlock,
    Norm,
    Resample,
    ResidualBlock,
    Shortcut,
    causal_conv,
)
from models.networks.network import Network

# of Wan2.1's latents, by channel
_MEANS = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_DEVIATIONS = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Configuration of a VAE; what is not stored is that of Wan2.1's."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = _MEANS
    latents_std: tuple[float, ...] = _DEVIATIONS
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8


class WanAutoencoder(Network):
    """An encoder and a decoder, and the layers between them and the latents."""

    config_type = AutoencoderConfig

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        z = config.z_dim
        self.encoder = _Encoder(config)
        self.quant_conv = causal_conv(2 * z, 2 * z, 1)
        self.post_quant_conv = causal_conv(z, z, 1)
        self.decoder = _Decoder(config)


class _Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.base_dim * factor for factor in (1, *config.dim_mult)]
        self.conv_in = causal_conv(config.in_channels, widths[0], 3)
        self.down_blocks = nn.ModuleList(_down_blocks(config, widths))
        self.mid_block = MiddleBlock(widths[-1])
        self.norm_out = Norm(widths[-1])
        self.conv_out = causal_conv(widths[-1], 2 * config.z_dim, 3)


def _down_blocks(config: AutoencoderConfig, widths: list[int]) -> Iterator[nn.Module]:
    last, scale = len(config.dim_mult) - 1, 1.0
    for level, (width, out) in enumerate(pairwise(widths)):
        mode = None
        if level != last:
            mode = "downsample3d" if config.temperal_downsample[level] else "downsample2d"
        if config.is_residual:
            yield _ResidualDownBlock(width, out, config.num_res_blocks, mode)
            continue
        for _ in range(config.num_res_blocks):
            yield ResidualBlock(width, out)
            if scale in config.attn_scales:
                yield AttentionBlock(out)
            width = out
        if mode is not None:
            yield Resample(out, out, mode)
            scale /= 2.0


class _ResidualDownBlock(nn.Module):
    def __init__(self, width: int, out: int, blocks: int, mode: str | None) -> None:
        super().__init__()
        self.avg_shortcut = Shortcut(width, out, mode)
        self.resnets = nn.ModuleList(ResidualBlock(out if place else width, out) for place in range(blocks))
        self.downsampler = None if mode is None else Resample(out, out, mode)


class _Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        base = config.decoder_base_dim or config.base_dim
        factors = config.dim_mult[::-1]
        widths = [base * factor for factor in (factors[0], *factors)]
        self.conv_in = causal_conv(config.z_dim, widths[0], 3)
        self.mid_block = MiddleBlock(widths[0])
        grows = config.temperal_downsample[::-1]
        blocks: list[nn.Module] = []
        for level, (width, out) in enumerate(pairwise(widths)):
            mode = None
            if level != len(factors) - 1:
                mode = "upsample3d" if grows[level] else "upsample2d"
            # an upsampling without a shortcut halves the channels
            width = width // 2 if level and not config.is_residual else width
            blocks.append(_UpBlock(width, out, config.num_res_blocks + 1, mode, residual=config.is_residual))
        self.up_blocks = nn.ModuleList(blocks)
        self.norm_out = Norm(widths[-1])
        self.conv_out = causal_conv(widths[-1], config.out_channels, 3)


class _UpBlock(nn.Module):
    def __init__(self, width: int, out: int, blocks: int, mode: str | None, *, residual: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(out if place else width, out) for place in range(blocks))
        self.avg_shortcut: Shortcut | None = None
        self.upsampler: Resample | None = None
        self.upsamplers: nn.ModuleList | None = None
        if mode is None:
            return
        if residual:
            self.avg_shortcut = Shortcut(width, out, mode)
            self.upsampler = Resample(out, out, mode)
        else:  # the name under which Wan 2.1's is stored is that of a list
            self.upsamplers = nn.ModuleList([Resample(out, out // 2, mode)])
