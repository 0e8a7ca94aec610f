"""The convolutions of the VAE on a CUDA device.

A 3D convolution reads a volume: its past frames, then the chunk's, channels-last, so that one kernel of cuDNN
does it. One kernel, too, writes the past frames and the sum, norm and SiLU of the chunk's straight into the
volume, and the last frames once more, for the next chunk; the bias after it is left to the next such kernel.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.averaged import Averaged
from models.kernels.pixel_operations import PixelOperations, Residual
from models.kernels.repeated import Repeated
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


class VolumeConv(CausalConv):
    """Convolves a volume of past frames and the chunk's, ``[1, channels, past + t, height, width]``."""

    weight: Tensor
    bias: Tensor
    volume_dtype: torch.dtype | None = None
    """Dtype of the volumes; None for that of the frames."""

    def __init__(self, conv: Any, enlarges: bool = False, *, operations: PixelOperations) -> None:
        super().__init__(conv, enlarges)
        self._operations = operations
        weight: Tensor = conv.weight.detach()
        if enlarges:
            weight = enlarging_weight(weight)
        elif self.past:
            weight = weight.contiguous(memory_format=torch.channels_last_3d)
        else:
            weight = channels_last(weight if weight.ndim == 4 else weight[:, :, 0])
        self.register_buffer("weight", weight)
        self.register_buffer("bias", conv.bias.detach().float())

    def forward(
        self, x: PendingSum, history: History, norm: ChannelNorm | None = None, keep: bool = True
    ) -> PendingSum:
        """Convolve frames, each together with the frames before it."""
        assert norm is None or self.past, "a norm is written into volumes only"
        if self.halves:
            return self._halved(x if keep else x.taken(), history)
        if self.past == 0:
            pictures, padding = history.with_halo(x.whole(), self.padding)
            return PendingSum(F.conv2d(pictures, self.weight, padding=padding), self.bias)
        rows = history.halo_rows(self.padding)
        volume = self._volume(x if keep else x.taken(), history, norm, rows, keep)
        return PendingSum(self._convolved(volume, norm, rows), self.bias)

    def enlarged(self, parts: Sequence[PendingSum], history: History) -> PendingSum:
        """Convolve frames that are made twice as high and wide."""
        rows = history.halo_rows(self.padding)
        pictures = self._in_turn([part.taken() for part in parts], rows)
        if rows:
            history.fill_halo(pictures)
        padding = enlarging_padding(rows)
        return PendingSum(F.conv_transpose2d(pictures, self.weight, stride=2, padding=padding), self.bias)

    def _convolved(self, frames: Tensor, norm: ChannelNorm | None, rows: int) -> Tensor:
        """Convolve a volume with a halo of ``rows``, into which ``norm`` was written."""
        height, width = self.padding
        # t c h w -> 1 c t h w
        volume = frames.transpose(0, 1)[None]
        convolved = F.conv3d(volume, self.weight, stride=(self.step, 1, 1), padding=(0, height - rows, width))
        return channels_last(convolved[0].transpose(0, 1))

    def _halved(self, x: PendingSum, history: History) -> PendingSum:
        t, channels, height, width = x.x.shape
        pictures = empty_pictures((t, channels, height + 1, width + 1), x.x)
        self._operations.add_frames(*_written(x), pictures)
        history.fill_row_below(pictures)
        return PendingSum(F.conv2d(pictures, self.weight, stride=2), self.bias)

    def _volume(
        self, x: PendingSum, history: History, norm: ChannelNorm | None, rows: int, keep: bool
    ) -> Tensor:
        """Write the past frames and the chunk's, with room for a halo of ``rows``, filled."""
        t, channels, height, width = x.x.shape
        dtype = self.volume_dtype
        frames = empty_pictures((self.past + t, channels, height + 2 * rows, width), x.x, dtype)
        latest = empty_pictures((self.past, *frames.shape[1:]), x.x, dtype)
        keep = keep and x.pending
        gamma = None if norm is None else norm.gamma
        scale = None if norm is None or dtype is None else norm.scale
        before = history.get(self)
        self._operations.fill_volume(*_laid_out(x), gamma, before, frames, latest, keep, scale)
        if keep:
            x.added()
        if rows:
            # by the bytes of 8 bits, since not every backend carries such floats
            new = frames[self.past :]
            history.fill_halo(new if dtype is None else new.view(torch.uint8))
            for row in (0, -1):
                latest[:, :, row] = frames[-self.past :, :, row]
        history[self] = latest
        return frames

    def _in_turn(self, parts: list[PendingSum], rows: int) -> Tensor:
        """Write frames one after the other, with room for a halo of ``rows``: each group of channels is
        one.
        """
        t = sum(part.x.shape[0] * part.x.shape[1] // self.inputs for part in parts)
        _, _, height, width = parts[0].x.shape
        pictures = empty_pictures((t, self.inputs, height + 2 * rows, width), parts[0].x)
        begin = 0
        for part in parts:
            end = begin + part.x.shape[0] * part.x.shape[1] // self.inputs
            self._operations.add_frames(*_written(part), _inside(pictures[begin:end], rows))
            begin = end
        return pictures


def _inside(pictures: Tensor, rows: int) -> Tensor:
    """Return the pictures without the ``rows`` of a halo above and below."""
    return pictures[:, :, rows : pictures.shape[2] - rows]


def _laid_out(x: PendingSum) -> tuple[Tensor, Tensor | None, Residual | None]:
    """Return frames, bias and residual as kernels read them. Only frames that are no sum may be copied."""
    if isinstance(x.residual, Averaged | Repeated):
        return x.x, x.bias, x.residual
    return _written(x)


def _written(x: PendingSum) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the same, with a residual in memory."""
    assert not x.pending or x.x.is_contiguous(memory_format=torch.channels_last)
    residual = x.written_residual()
    return channels_last(x.x), x.bias, None if residual is None else channels_last(residual)
