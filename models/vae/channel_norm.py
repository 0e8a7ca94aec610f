"""The VAE's norm: RMS norm over the channels of each pixel."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.eight_bit_conv import norm_scale
from models.kernels.pixel_operations import PIXEL_EPS


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel."""

    gamma: Tensor
    scale: Tensor
    """Of what SiLU makes of the results, in 8 bits."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.register_buffer("gamma", norm.gamma.detach().flatten())
        self.register_buffer("scale", norm_scale(self.gamma))

    def forward(self, x: Tensor) -> Tensor:
        """Divide each pixel by the root mean square of its channels, and scale by ``gamma``."""
        pixels = x.permute(0, 2, 3, 1)
        return F.rms_norm(pixels, (pixels.shape[-1],), self.gamma, eps=PIXEL_EPS).permute(0, 3, 1, 2)
