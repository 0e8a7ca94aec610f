"""The convolutions of the VAE on a CPU.

A 3D convolution runs as a 2D convolution whose input channels are those of the frame and of the two frames
before it: the same sum in another order, and on a CPU about twenty times faster than conv3d.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.vae.causal_conv import (
    CausalConv,
    channels_last,
    empty_pictures,
    enlarging_padding,
    enlarging_weight,
)
from models.vae.channel_norm import ChannelNorm
from models.vae.history import History
from models.vae.pending_sum import PendingSum


class LookBackConv(CausalConv):
    """Convolves each frame's channels concatenated with those of its past frames."""

    weight: Tensor
    weight_alone: Tensor
    bias: Tensor

    def __init__(self, conv: Any, enlarges: bool = False) -> None:
        super().__init__(conv, enlarges)
        weight: Tensor = conv.weight.detach()
        self.register_buffer("bias", conv.bias.detach())
        if enlarges:
            self.register_buffer("weight", enlarging_weight(weight))
            return
        if weight.ndim == 4:
            weight = weight[:, :, None]
        # out in time h w -> out (time in) h w
        self.register_buffer("weight", channels_last(weight.transpose(1, 2).flatten(1, 2)))
        self.register_buffer("weight_alone", channels_last(weight[:, :, -1]))

    def forward(
        self, x: PendingSum, history: History, norm: ChannelNorm | None = None, keep: bool = True
    ) -> PendingSum:
        """Convolve frames, each together with the frames before it."""
        frames = x.whole() if keep else x.taken().whole()
        if norm is not None:
            frames = F.silu(norm(frames), inplace=True)
        return PendingSum(self._convolved(frames, history))

    def enlarged(self, parts: Sequence[PendingSum], history: History) -> PendingSum:
        """Convolve frames that are made twice as high and wide."""
        frames = self._in_turn([part.taken().whole() for part in parts])
        padding = enlarging_padding(history.halo_rows(self.padding))
        frames, _ = history.with_halo(frames, self.padding)
        return PendingSum(F.conv_transpose2d(frames, self.weight, self.bias, stride=2, padding=padding))

    def _convolved(self, x: Tensor, history: History) -> Tensor:
        if self.halves:
            x = F.pad(x, (0, 1, 0, 1))
            history.fill_row_below(x)
            return F.conv2d(x, self.weight, self.bias, stride=2)
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
        return F.conv2d(_with_past(before, x, self.step), self.weight, self.bias, padding=padding)

    def _in_turn(self, parts: list[Tensor]) -> Tensor:
        """Write frames one after the other, channels-last: each group of channels is one."""
        if len(parts) == 1 and parts[0].shape[1] == self.inputs:
            return parts[0]
        groups = [part.split(self.inputs, dim=1) for part in parts]
        count = sum(len(group) * len(group[0]) for group in groups)
        frames = empty_pictures((count, self.inputs, *parts[0].shape[2:]), parts[0])
        begin = 0
        for group in groups:
            end = begin + len(group) * len(group[0])
            for turn, pictures in enumerate(group):
                frames[begin + turn : end : len(group)] = pictures
            begin = end
        return frames


def _with_past(before: Tensor, x: Tensor, step: int) -> Tensor:
    """Concatenate the channels of each ``past + step`` frames, oldest first, ``step`` further each time.

    ``before`` ``[past, channels, h, w]`` and ``x`` ``[t, channels, h, w]`` to ``[t / step,
    (past + step) · channels, h, w]``.
    """
    past, (t, channels, height, width) = len(before), x.shape
    count, taps = t // step, past + step
    stacked = empty_pictures((count, taps * channels, height, width), x)
    for position in range(taps):
        part = stacked[:, position * channels : (position + 1) * channels]
        earlier = min(-(min(position - past, 0) // step), count)  # how many are from before the chunk
        part[:earlier] = before[position::step][:earlier]
        part[earlier:] = x[position - past + step * earlier :: step][: count - earlier]
    return stacked


def _latest(before: Tensor, x: Tensor, count: int) -> Tensor:
    """Copy the last ``count`` frames, so that the chunk they come from can be freed."""
    return x[-count:].clone() if len(x) >= count else torch.cat([before, x])[-count:].clone()
