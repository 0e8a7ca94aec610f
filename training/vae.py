"""Training of the VAE: its beginning, its loss, and the parts of clips that it sees."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanResidualBlock
from torch import Tensor, nn

from training.whole_clip import WholeClipVae

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 1.0
FIRST_LOG_VARIANCE = -4.0
LEAST_LOG_VARIANCE = -6.0
"""So that the decoder never counts on latents that a transformer cannot hit."""


def initialise(vae: Any) -> None:
    """Initialise the weights so that training starts fast; PyTorch's defaults do not.

    Every convolution over time begins as one over the present frame, the blocks begin close to their
    shortcuts, and the posterior begins narrow.
    """
    for layer in vae.modules():
        if isinstance(layer, WanCausalConv3d) and layer.kernel_size[0] == 3:
            layer.weight.data[:, :, :2] = 0.0
            layer.weight.data[:, :, 2] *= 3**0.5
    for layer in vae.modules():
        if isinstance(layer, WanResidualBlock):
            layer.conv2.weight.data *= 0.1
        elif isinstance(layer, WanResample) and hasattr(layer, "time_conv"):
            same = torch.eye(layer.time_conv.in_channels)[:, :, None, None]
            copies = layer.time_conv.out_channels // layer.time_conv.in_channels
            layer.time_conv.weight.data[:, :, 2] = same.repeat(copies, 1, 1, 1)
            nn.init.zeros_(layer.time_conv.bias)
    log_variance = slice(vae.config.z_dim, None)
    vae.quant_conv.weight.data[log_variance] = 0.0
    vae.quant_conv.bias.data[log_variance] = FIRST_LOG_VARIANCE


def loss(vae: WholeClipVae, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Compute the loss, and the mean squared error alone, for ``video`` ``[n, 3, 4k + 1, H, W]``.

    The latents are sampled from the posterior, so that the decoder tolerates small errors of the transformer.
    """
    mean, log_variance = (part.float() for part in vae.moments(video))
    log_variance = log_variance.clamp(LEAST_LOG_VARIANCE, 10.0)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    decoded = vae.decoded(mean + torch.exp(0.5 * log_variance) * noise).float()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    error = F.mse_loss(decoded, video)
    return F.l1_loss(decoded, video) + error + EDGE_WEIGHT * edges(decoded - video) + KL_WEIGHT * kl, error


def edges(difference: Tensor) -> Tensor:
    """Compute the mean absolute step of ``[n, c, f, h, w]`` from pixel to pixel, along rows and columns: a
    blurred edge is wrong here all along its width.
    """
    return difference.diff(dim=3).abs().mean() + difference.diff(dim=4).abs().mean()


def crop(video: Tensor, side: int, frames: int, generator: torch.Generator) -> Tensor:
    """Crop each clip at random in time and space, for cheaper steps."""
    length, height, width = video.shape[2:]
    begin = int(torch.randint(length - frames + 1, (), generator=generator))
    top, left = (
        int(torch.randint((whole - side) // 2 + 1, (), generator=generator)) * 2 for whole in (height, width)
    )
    return video[:, :, begin : begin + frames, top : top + side, left : left + side].contiguous()
