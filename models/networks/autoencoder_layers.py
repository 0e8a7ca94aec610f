"""Layers of Wan's causal VAE as they are stored: parameters alone, by the names of diffusers."""

import torch
from torch import nn


def causal_conv(channels: int, out: int, size: int) -> nn.Conv3d:
    """Make a convolution of ``size`` frames, rows and columns."""
    return nn.Conv3d(channels, out, size)


class Norm(nn.Module):
    """RMS norm over the channels; ``sides``: sides of a frame, or of a volume, beside them."""

    def __init__(self, channels: int, sides: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * sides))


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(channels), Norm(out)
        self.conv1, self.conv2 = causal_conv(channels, out, 3), causal_conv(out, out, 3)
        self.conv_shortcut = nn.Identity() if channels == out else causal_conv(channels, out, 1)


class AttentionBlock(nn.Module):
    """Single-head attention among the pixels of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, sides=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)


class MiddleBlock(nn.Module):
    """Residual blocks with attention between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([AttentionBlock(channels)])


class Resample(nn.Module):
    """Twice or half the height and width; in a ``mode`` that ends with 3d, of the frames too."""

    def __init__(self, channels: int, out: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        enlarges, in_time = mode.startswith("up"), mode.endswith("3d")
        conv = nn.Conv2d(channels, out, 3, stride=1 if enlarges else 2)
        # what comes before the convolution, without parameters, is done with it
        self.resample = nn.ModuleList([nn.Identity(), conv])
        if in_time and enlarges:
            self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1))
        elif in_time:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))


class Shortcut(nn.Module):
    """Numbers of a shortcut without parameters around a block that may resample, in ``mode``."""

    def __init__(self, channels: int, out: int, mode: str | None) -> None:
        super().__init__()
        self.out_channels = out
        self.factor_t = 2 if mode is not None and mode.endswith("3d") else 1
        self.factor_s = 1 if mode is None else 2
        self.repeats = out * self.factor_t * self.factor_s**2 // channels
