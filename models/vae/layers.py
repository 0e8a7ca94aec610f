"""The layers of Wan's causal VAE, each built from its diffusers counterpart and run chunk by chunk.

Frames are a batch of pictures ``[t, channels, height, width]``, channels-last. A 3D convolution runs as a 2D
convolution whose input channels are those of the frame and of the two frames before it: the same sum in
another order, and on a CPU about twenty times faster than conv3d.

``History`` holds the earlier frames that each layer still needs, and the division of frames into strips. It
is an argument, so that a layer holds no state of a run. ``first`` is true for the chunk that begins with the
video's first frame, which is a latent frame of its own.
"""

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vae.strips import Strips

Layer: TypeAlias = nn.Module
"""A module called as ``layer(x, history, first)``."""


class History(dict[nn.Module, Tensor]):
    """Causal cache: the last input frames of each layer, in one run over a video or a rank's strip."""

    def __init__(self, strips: Strips | None = None) -> None:
        super().__init__()
        self._strips = strips if strips is not None and strips.several else None

    def move(self, device: torch.device) -> None:
        """Move all frames to another device."""
        for layer, frames in self.items():
            self[layer] = frames.to(device)

    def cut(self, x: Tensor) -> Tensor:
        """Cut this rank's strip out of whole frames; without strips, return them unchanged."""
        return x if self._strips is None else self._strips.cut(x)

    def with_halo(self, x: Tensor, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Return a convolution's input and padding: in a strip, the halo replaces zero padding."""
        if self._strips is None or padding[0] == 0:
            return x, padding
        return self._strips.exchange_halo(x), (0, padding[1])

    def with_row_below(self, x: Tensor) -> Tensor:
        """Pad by a zero column on the right, and a row below: zeros, or the next strip's first row."""
        if self._strips is None:
            return F.pad(x, (0, 1, 0, 1))
        return F.pad(self._strips.exchange_row_below(x), (0, 1))


class CausalConv(nn.Module):
    """A 3D convolution, causal in time: over a frame and its past, zeros before the video."""

    weight: Tensor
    weight_alone: Tensor
    bias: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        weight: Tensor = conv.weight.detach()
        self.past: int = weight.shape[2] - 1
        """Number of earlier frames in the receptive field: 2 or 0."""
        self.padding = (weight.shape[3] // 2, weight.shape[4] // 2)
        # out in time h w -> out (time in) h w
        self.register_buffer("weight", channels_last(weight.transpose(1, 2).flatten(1, 2)))
        self.register_buffer("weight_alone", channels_last(weight[:, :, -1]))
        self.register_buffer("bias", conv.bias.detach())

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Convolve frames ``[t, channels, h, w]``, each together with the frames before it."""
        x, padding = history.with_halo(x, self.padding)
        if self.past == 0:
            return F.conv2d(x, self.weight_alone, self.bias, padding=padding)
        before = history.get(self)
        if before is None:
            before = empty_pictures((self.past, *x.shape[1:]), x).zero_()
            history[self] = _latest(before, x, self.past)
            if x.shape[0] == 1:  # nothing but zeros lies before a first frame: skip their products
                return F.conv2d(x, self.weight_alone, self.bias, padding=padding)
        else:
            history[self] = _latest(before, x, self.past)
        return F.conv2d(_with_past(before, x), self.weight, self.bias, padding=padding)


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel."""

    gamma: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.register_buffer("gamma", norm.gamma.detach().flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Divide each pixel by the root mean square of its channels, and scale by ``gamma``."""
        # diffusers divides by max(‖x‖, 1e-12); an epsilon of its square prevents NaN for an all-zero pixel
        pixels = x.permute(0, 2, 3, 1)
        return F.rms_norm(pixels, (pixels.shape[-1],), self.gamma, eps=1e-24).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(block.norm1), ChannelNorm(block.norm2)
        self.conv1, self.conv2 = CausalConv(block.conv1), CausalConv(block.conv2)
        self.shortcut = (
            None if isinstance(block.conv_shortcut, nn.Identity) else CausalConv(block.conv_shortcut)
        )

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Run the block on frames ``[t, channels, h, w]``; only the channels may change in number."""
        shortcut = x if self.shortcut is None else self.shortcut(x, history, first)
        x = self.conv1(F.silu(self.norm1(x)), history, first)
        x = self.conv2(F.silu(self.norm2(x)), history, first)
        return x + shortcut


class PictureAttention(nn.Module):
    """Single-head attention among the pixels of each frame."""

    to_qkv_weight: Tensor
    to_qkv_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(block.norm)
        for name in ("to_qkv", "proj"):
            self.register_buffer(f"{name}_weight", getattr(block, name).weight.detach().flatten(1))
            self.register_buffer(f"{name}_bias", getattr(block, name).bias.detach())

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Add to each pixel its attention to the pixels of its own frame."""
        pixels = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [t, h·w, channels]
        queries, keys, values = F.linear(pixels, self.to_qkv_weight, self.to_qkv_bias)[:, None].chunk(
            3, dim=-1
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)[:, 0]
        projected = F.linear(attended, self.proj_weight, self.proj_bias)
        picture: Tensor = projected.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return x + picture


class Middle(nn.Module):
    """Residual blocks with attention between them."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        layers: list[Layer] = [ResidualBlock(block.resnets[0])]
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            layers += [PictureAttention(attention), ResidualBlock(resnet)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Run the blocks on frames ``[t, channels, h, w]``; the shape stays the same."""
        for layer in self.layers:
            x = layer(x, history, first)
        return x


def _with_past(before: Tensor, x: Tensor) -> Tensor:
    """Concatenate each frame's channels to those of its past frames, oldest first.

    ``before`` ``[past, channels, h, w]`` and ``x`` ``[t, channels, h, w]`` to ``[t, (past + 1) · channels, h,
    w]``.
    """
    past, (t, channels, height, width) = len(before), x.shape
    stacked = empty_pictures((t, (past + 1) * channels, height, width), x)
    for position in range(past + 1):
        lag = past - position
        part = stacked[:, position * channels : (position + 1) * channels]
        part[:lag] = before[past - lag : past - lag + t]
        part[lag:] = x[: max(t - lag, 0)]
    return stacked


def _latest(before: Tensor, x: Tensor, count: int) -> Tensor:
    """Copy the last ``count`` frames, so that the chunk they come from can be freed."""
    return x[-count:].clone() if len(x) >= count else torch.cat([before, x])[-count:].clone()


def empty_pictures(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Allocate pictures of this shape, channels-last, of the dtype and on the device of ``like``."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def channels_last(weight: Tensor) -> Tensor:
    """Lay out a weight channels-last in memory, which convolutions run fastest on."""
    return weight.contiguous(memory_format=torch.channels_last)
