"""The layers of Wan's causal VAE, each built from its diffusers counterpart and run chunk by chunk.

Frames are a batch of pictures ``[t, channels, height, width]``, channels-last; between layers they are sums
that the next layer may complete. ``History`` is an argument, so that a layer holds no state of a run.
``first`` is true for the chunk that begins with the video's first frame, which is a latent frame of its own.
"""

from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from models.vae.causal_conv import ConvForm
from models.vae.channel_norm import ChannelNorm
from models.vae.history import History
from models.vae.pending_sum import PendingSum
from models.vae.picture_attention import choose_attention

Layer: TypeAlias = nn.Module
"""A module called as ``layer(x, history, first)`` with a ``PendingSum``, which returns one.

What is left in ``x`` is the sum, of which the layer may have taken over the memory.
"""


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, block: Any, conv: ConvForm) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(block.norm1), ChannelNorm(block.norm2)
        self.conv1, self.conv2 = conv(block.conv1), conv(block.conv2)
        self.shortcut = None if isinstance(block.conv_shortcut, nn.Identity) else conv(block.conv_shortcut)

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Run the block on frames ``[t, channels, h, w]``; only the channels may change in number."""
        between = self.conv1(x, history, self.norm1)
        shortcut = PendingSum(x.whole()) if self.shortcut is None else self.shortcut(x, history)
        after: PendingSum = self.conv2(between, history, self.norm2, keep=False)
        return after.plus(shortcut)


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
        weight = self.proj_weight
        self._attend = choose_attention(weight.device, weight.dtype, weight.shape[0])

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Add to each pixel its attention to the pixels of its own frame."""
        pictures = x.whole()
        pixels = self.norm(pictures).permute(0, 2, 3, 1).flatten(1, 2)  # [t, h·w, channels]
        queries, keys, values = F.linear(pixels, self.to_qkv_weight, self.to_qkv_bias).chunk(3, dim=-1)
        projected = F.linear(self._attend(queries, keys, values), self.proj_weight, self.proj_bias)
        attention: Tensor = projected.unflatten(1, pictures.shape[2:]).permute(0, 3, 1, 2)
        return PendingSum(attention, residual=pictures)


class Middle(nn.Module):
    """Residual blocks with attention between them."""

    def __init__(self, block: Any, conv: ConvForm) -> None:
        super().__init__()
        layers: list[Layer] = [ResidualBlock(block.resnets[0], conv)]
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            layers += [PictureAttention(attention), ResidualBlock(resnet, conv)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Run the blocks on frames ``[t, channels, h, w]``; the shape stays the same."""
        for layer in self.layers:
            x = layer(x, history, first)
        return x
