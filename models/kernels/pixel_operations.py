"""What the VAE does to each pixel between its convolutions, on a CUDA device, and that in plain torch.

Two implementations: ``EAGER_PIXELS`` here, which defines the numbers, and ``models.kernels.fused_pixels``,
which moves every value through the device's memory once.

Pictures are ``[t, channels, height, width]``, channels-last; those that ``add_frames`` writes to may be rows
inside larger ones. ``bias``: ``[channels]``, of any dtype.
"""

from typing import Protocol, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from models.kernels.averaged import Averaged
from models.kernels.operations import LARGEST
from models.kernels.repeated import Repeated
from models.kernels.yuv import yuv420p

Residual: TypeAlias = Tensor | Averaged | Repeated
"""What is added to a sum: pictures, or what they are made of."""

PIXEL_EPS = 1e-24
"""Epsilon of the norm's mean square: diffusers divides by max(‖x‖, 1e-12); this prevents NaN for a pixel of
zeros.
"""


class PixelOperations(Protocol):
    """Operations between two convolutions. Sums and norms are computed in float32."""

    def fill_volume(
        self,
        x: Tensor,
        bias: Tensor | None,
        residual: Residual | None,
        gamma: Tensor | None,
        before: Tensor | None,
        volume: Tensor,
        latest: Tensor,
        keep: bool,
        scale: Tensor | None = None,
    ) -> None:
        """Write past frames to ``volume``, and after them ``SiLU(RMS norm(x + bias + residual) · gamma)``;
        without gamma the sum.

        The past frames are ``before``, or zeros. As many, the last of the volume, are written to ``latest``
        as well, for the next one. Of the volume's rows, of which there may be more than those of ``x``, above
        and below alike, new frames have those in the middle only. With ``keep`` the sum is written to ``x``
        as well. The norm is that of the rounded sum. Values are divided by ``scale``, a float32 number, for a
        volume in 8 bits.
        """

    def add_frames(self, x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
        """Write ``x + bias + residual`` to ``out``, of the same channels, or of a part of them and so many
        times the frames: each part of the channels is a frame. What ``out`` is larger by, below and on the
        right, becomes zeros.
        """

    def yuv420p(self, frames: Tensor, out: Tensor) -> None:
        """Write frames in −1 … 1, ``[n, 3, height, width]`` of any layout, to ``out`` as YUV 4:2:0.

        ``out``: uint8 ``[n, height · 3 / 2, width]``.
        """


class EagerPixels:
    """Implements ``PixelOperations`` by torch's own operators, several passes over the memory each."""

    def fill_volume(
        self,
        x: Tensor,
        bias: Tensor | None,
        residual: Residual | None,
        gamma: Tensor | None,
        before: Tensor | None,
        volume: Tensor,
        latest: Tensor,
        keep: bool,
        scale: Tensor | None = None,
    ) -> None:
        """Write past frames, and norm and SiLU of the sum, to ``volume``, and the sum itself to ``x``."""
        total = _sum(x, bias, residual)
        if keep:
            x.copy_(total)
        if gamma is not None:
            pixels = total.permute(0, 2, 3, 1).float()
            normed = F.rms_norm(pixels, (pixels.shape[-1],), gamma.float(), eps=PIXEL_EPS)
            total = F.silu(normed, inplace=True).permute(0, 3, 1, 2)
        if scale is not None:
            total = (total * scale.reciprocal()).clamp(-LARGEST, LARGEST)
        past, rows = len(latest), (volume.shape[2] - x.shape[2]) // 2
        if before is None:
            volume[:past].zero_()
        else:
            volume[:past] = before
        volume[past:, :, rows : volume.shape[2] - rows] = total
        latest.copy_(volume[-past:])

    def add_frames(self, x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
        """Write the sum to ``out``, each part of its channels as a frame."""
        height, width = x.shape[2:]
        # t (parts c) h w -> t parts c h w
        frames = out[:, :, :height, :width].unflatten(0, (len(x), -1))
        frames.copy_(_sum(x, bias, residual).unflatten(1, (-1, out.shape[1])))
        out[:, :, height:].zero_()
        out[:, :, :height, width:].zero_()

    def yuv420p(self, frames: Tensor, out: Tensor) -> None:
        """Write the frames as YUV 4:2:0 to ``out``."""
        out.copy_(yuv420p(frames))


EAGER_PIXELS = EagerPixels()


def _sum(x: Tensor, bias: Tensor | None, residual: Residual | None) -> Tensor:
    total = x.float()
    if bias is not None:
        total = total + bias.float()[:, None, None]
    if residual is not None:
        total = total + (residual if isinstance(residual, Tensor) else residual.pictures())
    return total.type_as(x)
