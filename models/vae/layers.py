"""The layers of Wan's causal VAE, each built from its diffusers counterpart and run chunk by chunk.

Frames are a batch of pictures ``[t, channels, height, width]``, channels last. A convolution over time is a
convolution over pictures whose channels are those of the frame and of the two before it, side by side: the
same sum in another order, and on a CPU about twenty times faster than conv3d.

``History`` is what a layer must remember of earlier frames, and how the frames are cut into strips. It is
passed in, so that a layer holds no state of a run.
``first`` says that the chunk begins with the video's first frame, which stands alone in time.
"""

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vae.strips import Strips

Layer: TypeAlias = nn.Module
"""A module called as ``layer(x, history, first)``."""


class History(dict[nn.Module, Tensor]):
    """The last frames each layer saw, in one run over a video, or over one rank's strip of it."""

    def __init__(self, strips: Strips | None = None) -> None:
        super().__init__()
        self._strips = strips if strips is not None and strips.several else None

    def move(self, device: torch.device) -> None:
        """Keep what is remembered on another device."""
        for layer, frames in self.items():
            self[layer] = frames.to(device)

    def cut(self, x: Tensor) -> Tensor:
        """This rank's strip of whole pictures; all of them where there are no strips."""
        return x if self._strips is None else self._strips.cut(x)

    def with_edges(self, x: Tensor, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """A convolution's input and padding: in a strip the neighbours' rows take the place of zeros."""
        if self._strips is None or padding[0] == 0:
            return x, padding
        return self._strips.exchange_halo(x), (0, padding[1])

    def with_end(self, x: Tensor) -> Tensor:
        """Pictures with a further column on the right and row at the bottom: zeros, or the row of the strip
        below.
        """
        if self._strips is None:
            return F.pad(x, (0, 1, 0, 1))
        return F.pad(self._strips.exchange_row_below(x), (0, 1))


class CausalConv(nn.Module):
    """A 3D convolution that sees the frame and those before it; before the video there is nothing (zeros)."""

    weight: Tensor
    weight_alone: Tensor
    bias: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        weight: Tensor = conv.weight.detach()
        self.past: int = weight.shape[2] - 1
        """How many earlier frames a frame sees: 2, or 0."""
        self.padding = (weight.shape[3] // 2, weight.shape[4] // 2)
        # [out, in, time, h, w] → [out, time · in, h, w]
        self.register_buffer("weight", channels_last(weight.transpose(1, 2).flatten(1, 2)))
        self.register_buffer("weight_alone", channels_last(weight[:, :, -1]))
        self.register_buffer("bias", conv.bias.detach())

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Convolve frames ``[t, channels, h, w]``, each with those before it."""
        x, padding = history.with_edges(x, self.padding)
        if self.past == 0:
            return F.conv2d(x, self.weight_alone, self.bias, padding=padding)
        before = history.get(self)
        if before is None:
            before = x.new_zeros(self.past, *x.shape[1:])
            history[self] = _latest(before, x, self.past)
            if x.shape[0] == 1:  # a first frame has nothing to look back to
                return F.conv2d(x, self.weight_alone, self.bias, padding=padding)
        else:
            history[self] = _latest(before, x, self.past)
        return F.conv2d(_look_back(before, x), self.weight, self.bias, padding=padding)


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel."""

    gamma: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.register_buffer("gamma", norm.gamma.detach().flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Each pixel divided by the norm of its channels."""
        # diffusers divides by max(‖x‖, 1e-12); an epsilon of its square keeps an all-zero pixel from NaN
        pixels = x.permute(0, 2, 3, 1)
        return F.rms_norm(pixels, (pixels.shape[-1],), self.gamma, eps=1e-24).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(block.norm1), ChannelNorm(block.norm2)
        self.conv1, self.conv2 = CausalConv(block.conv1), CausalConv(block.conv2)
        self.shortcut = (
            None if isinstance(block.conv_shortcut, nn.Identity) else CausalConv(block.conv_shortcut)
        )

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Frames ``[t, channels, h, w]`` in and out."""
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
        """Add to each pixel what it attends to in its own frame."""
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
        """Frames in and out, of the same shape."""
        for layer in self.layers:
            x = layer(x, history, first)
        return x


def _look_back(before: Tensor, x: Tensor) -> Tensor:
    """Each frame's channels after those of the frames it sees: ``[t, (past + 1) · channels, h, w]``."""
    past, (t, channels, height, width) = len(before), x.shape
    seen = torch.empty(
        (t, (past + 1) * channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    for position in range(past + 1):
        lag = past - position
        part = seen[:, position * channels : (position + 1) * channels]
        part[:lag] = before[past - lag : past - lag + t]
        part[lag:] = x[: max(t - lag, 0)]
    return seen


def _latest(before: Tensor, x: Tensor, count: int) -> Tensor:
    """The last ``count`` frames, copied, so that the chunk they come from can be freed."""
    return x[-count:].clone() if len(x) >= count else torch.cat([before, x])[-count:].clone()


def channels_last(weight: Tensor) -> Tensor:
    """The weight in the memory order that convolutions are fastest in."""
    return weight.contiguous(memory_format=torch.channels_last)
