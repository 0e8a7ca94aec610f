"""A convolution of the VAE over a frame and its past, and the two forms that there are of it.

``LookBackConv`` is for CPUs, ``VolumeConv`` for CUDA devices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from models.vae.channel_norm import ChannelNorm
from models.vae.history import History
from models.vae.pending_sum import PendingSum


class CausalConv(nn.Module, ABC):
    """A 3D convolution, causal in time: over a frame and its past, zeros before the video.

    Also a 2D convolution, as one without a past. One that ``enlarges`` doubles the size of its frames first,
    and is called by ``enlarged`` alone. One with a stride of 2 halves their height and width; or, in time,
    their number, after the video's first frame, which ``begin`` takes.
    """

    def __init__(self, conv: Any, enlarges: bool = False) -> None:
        super().__init__()
        self.enlarges = enlarges
        shape: torch.Size = conv.weight.shape
        self.inputs: int = shape[1]
        """Channels of the input."""
        self.halves: bool = conv.stride[-1] == 2
        """True if height and width become half as large."""
        self.step: int = conv.stride[0] if len(shape) == 5 else 1
        """Frames from one that is computed to the next: 2 or 1."""
        self.past: int = shape[2] - self.step if len(shape) == 5 else 0
        """Number of frames before a chunk that its first result is made of: 2, 1 or 0."""
        self.padding = (shape[-2] // 2, shape[-1] // 2)

    def begin(self, x: PendingSum, history: History) -> PendingSum:
        """Remember the last of the frames that come before all that are convolved; return them unchanged."""
        history[self] = x.whole()[-self.past :].clone()
        return x

    @abstractmethod
    def forward(
        self, x: PendingSum, history: History, norm: ChannelNorm | None = None, keep: bool = True
    ) -> PendingSum:
        """Convolve frames, each together with the frames before it.

        ``norm``: norm, and SiLU after it, to apply to the frames first. Unless ``keep``, nothing is left in
        ``x``.
        """

    @abstractmethod
    def enlarged(self, parts: Sequence[PendingSum], history: History) -> PendingSum:
        """Convolve frames that are made twice as high and wide, pixel by pixel, both in one.

        ``parts``: consecutive frames, of which those with a multiple of the input's channels become as many
        frames each. Nothing is left in them.
        """


ConvForm: TypeAlias = Callable[..., CausalConv]
"""Makes the counterpart of a convolution of diffusers: one of the forms, and the kernels that it uses.
Called as ``form(conv)`` or ``form(conv, enlarges=True)``.
"""


def enlarging_weight(weight: Tensor) -> Tensor:
    """Return the weight ``[in, out, 4, 4]`` of a transposed convolution with stride 2 that does what doubling
    the size of pictures, pixel by pixel, and convolving them by ``weight`` ``[out, in, 3, 3]`` does.

    Of three neighbours in the larger picture two are the same pixel of the smaller one, and their weights add
    up: four products of nine are left for each pixel.
    """
    wide = weight.double()
    for side in (2, 3):
        before, here, after = wide.unbind(side)
        wide = torch.stack([after, here + after, before + here, before], side)
    return channels_last(wide.transpose(0, 1).to(weight.dtype))


def enlarging_padding(halo_rows: int) -> tuple[int, int]:
    """Return the padding of such a convolution that makes the picture, without the halo's rows."""
    return 1 + 2 * halo_rows, 1


def empty_pictures(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Allocate pictures of this shape, channels-last, on the device of ``like``, and of its dtype if None is
    given.
    """
    return torch.empty(
        shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last
    )


def channels_last(tensor: Tensor) -> Tensor:
    """Lay out pictures or a weight channels-last in memory, which convolutions run fastest on."""
    return tensor.contiguous(memory_format=torch.channels_last)
