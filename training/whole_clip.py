"""Wan's VAE on whole clips at once, for training: computes what diffusers' ``AutoencoderKLWan`` computes.

diffusers runs the VAE one latent frame at a time with a cache of the frames before, which gradients would
have to cross again and again. A training clip begins with the video's first frame, so no cache is needed
here: each convolution is padded with zeros in time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from torch import Tensor


class WholeClipVae:
    """Take over ``vae``: afterwards its modules work on whole clips only.

    Channels are innermost in memory, where a CPU's convolutions are fastest. ``compiled``: what lies between
    them is one kernel.
    """

    def __init__(self, vae: Any, *, compiled: bool = False) -> None:
        self._vae = vae
        self._patch: int = vae.config.patch_size or 1
        activated = torch.compile(_activated, dynamic=True) if compiled else _activated
        for layer in vae.modules():
            if isinstance(layer, WanResample):
                layer.forward = partial(_resampled, layer)
            elif isinstance(layer, WanCausalConv3d):
                layer.forward = partial(_convolved, layer)
            elif isinstance(layer, WanResidualBlock):
                layer.forward = partial(_residual, layer, activated)

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``[n, 3, 4k + 1, H, W]`` to the latents' mean and log-variance, ``[n, z, f, h, w]`` each."""
        pixels = patchify(video, self._patch) if self._patch > 1 else video
        pixels = pixels.contiguous(memory_format=torch.channels_last_3d)
        mean, log_variance = self._vae.quant_conv(self._vae.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance

    def decoded(self, latents: Tensor) -> Tensor:
        """Decode to a video ``[n, 3, 4k + 1, H, W]``, unclamped: clamping would cut gradients."""
        latents = latents.contiguous(memory_format=torch.channels_last_3d)
        pixels = self._vae.decoder(self._vae.post_quant_conv(latents), first_chunk=True)
        video: Tensor = unpatchify(pixels, self._patch) if self._patch > 1 else pixels
        return video


def _convolved(layer: Any, x: Tensor, feat_cache: None = None) -> Tensor:
    """Compute ``WanCausalConv3d.forward``; over a single frame, without the taps that meet only zeros."""
    taps, rows, columns = layer.kernel_size
    before = taps - 1 if layer.stride[0] == 1 else 0
    weight = layer.weight
    if x.shape[2] == 1 and before:
        weight = weight[:, :, -1:]
    elif before:
        x = F.pad(x, (0, 0, 0, 0, before, 0))
    return F.conv3d(x, weight, layer.bias, layer.stride, (0, rows // 2, columns // 2))


def _residual(
    block: Any,
    activated: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    feat_cache: None = None,
    feat_idx: object = None,
) -> Tensor:
    """Compute ``WanResidualBlock.forward``."""
    inner = block.conv1(_by_channel(activated, x, block.norm1.gamma))
    passed: Tensor = block.conv2(_by_channel(activated, inner, block.norm2.gamma)) + block.conv_shortcut(x)
    return passed


def _by_channel(activated: Callable[[Tensor, Tensor], Tensor], x: Tensor, gamma: Tensor) -> Tensor:
    """Apply ``activated`` to a matrix of the pixels' channels, so that one compiled kernel does for all."""
    pixels = x.movedim(1, 4)
    matrix = pixels.flatten(0, 3).contiguous()
    passed: Tensor = activated(matrix, gamma.flatten()).unflatten(0, pixels.shape[:4]).movedim(4, 1)
    return passed


def _activated(pixels: Tensor, gamma: Tensor) -> Tensor:
    """Normalise over the channels, scale by ``gamma`` and apply SiLU."""
    root_mean_square = pixels.float().square().mean(dim=1, keepdim=True).sqrt()
    return F.silu(pixels / root_mean_square.clamp_min(1e-12) * gamma).type_as(pixels)


def _resampled(layer: Any, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
    """Compute ``WanResample.forward`` over all chunks; the first frame stays one frame at any rate."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        later = layer.time_conv(x[:, :, 1:])
        # two frames of each, as twice the channels: n (2 c) t h w -> n c (t 2) h w
        later = later.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)
        x = torch.cat([x[:, :, :1], later], dim=2)
    frames = x.transpose(1, 2)
    pictures = layer.resample(frames.flatten(0, 1))
    x = pictures.unflatten(0, frames.shape[:2]).transpose(1, 2)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x
