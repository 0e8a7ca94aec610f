"""A convolution of 3 frames, rows and columns in 8-bit floats, by one scale for its input and one for each
output channel.

Its input is a volume: two past frames, then those of a chunk, ``[2 + t, channels, height, width]``,
channels-last. A scale of the whole input can be taken out of a sum of 27 pixels, that of a pixel cannot.
"""

from math import sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from models.kernels.operations import FP8, LARGEST, SMALLEST_SCALE

_PAST = 2


class ScaledWeight(NamedTuple):
    """A weight in 8 bits, with a scale for each output channel: ``values · scale`` is what it was."""

    values: Tensor
    """``[out, in, 3, 3, 3]``, float8 e4m3, in memory with the input channels last."""
    scale: Tensor
    """``[out]``, float32."""


def scaled_weight(weight: Tensor) -> ScaledWeight:
    """Quantise the weight of a convolution by the largest value of each output channel."""
    exact = weight.float()
    scale = (exact.abs().amax(dim=(1, 2, 3, 4)) / LARGEST).clamp(min=SMALLEST_SCALE)
    values = (exact / scale.view(-1, 1, 1, 1, 1)).clamp(-LARGEST, LARGEST)
    return ScaledWeight(values.contiguous(memory_format=torch.channels_last_3d).to(FP8), scale)


def norm_scale(gamma: Tensor) -> Tensor:
    """Return the scale of a norm's results after SiLU, of which none is then beyond the largest of 8 bits.

    Of ``n`` channels none is more than ``√n`` times their root mean square, and SiLU makes nothing larger:
    the bound is there before any value is. It leaves the usual ones far from the largest, which costs
    nothing: a float of 8 bits has the same relative precision from there down to a 28,000th of it.
    """
    bound = gamma.abs().max().float() * sqrt(len(gamma))
    return (bound / LARGEST).clamp(min=SMALLEST_SCALE)


def convolved(volume: Tensor, scale: Tensor, weight: ScaledWeight, halo: int, dtype: torch.dtype) -> Tensor:
    """Convolve a volume to ``[t, out, height - 2 · halo, width]``: on CUDA by a Triton kernel, elsewhere in
    plain torch.

    ``scale``: of the volume, a float32 number; ``halo``: rows of it above and below the result. Sums are in
    float32, zeros stand for what is outside.
    """
    if not volume.is_cuda:
        return convolved_in_plain_torch(volume, scale, weight, halo, dtype)
    made: Tensor = _convolve_volume(volume, weight.values, scale, weight.scale, halo, dtype)
    return made


def convolved_in_plain_torch(
    volume: Tensor, scale: Tensor, weight: ScaledWeight, halo: int, dtype: torch.dtype
) -> Tensor:
    """Convolve as ``convolved`` does, in float32: this defines the numbers, and saves no time."""
    # t c h w -> 1 c t h w
    wide = volume.float().transpose(0, 1)[None]
    product = F.conv3d(wide, weight.values.float(), padding=(0, 1 - halo, 1))[0].transpose(0, 1)
    scaled = product * (weight.scale * scale)[:, None, None]
    return scaled.to(dtype).contiguous(memory_format=torch.channels_last)


@custom_op("wan_serve::convolve_volume", mutates_args=())
def _convolve_volume(
    volume: Tensor, weight: Tensor, scale: Tensor, weight_scale: Tensor, halo: int, dtype: torch.dtype
) -> Tensor:
    from models.kernels import conv_kernel

    with torch.cuda.device_of(volume):
        return conv_kernel.convolve(volume, weight, scale, weight_scale, halo, dtype)


@_convolve_volume.register_fake
def _(
    volume: Tensor, weight: Tensor, scale: Tensor, weight_scale: Tensor, halo: int, dtype: torch.dtype
) -> Tensor:
    frames, _, height, width = volume.shape
    shape = frames - _PAST, len(weight), height - 2 * halo, width
    return torch.empty(shape, dtype=dtype, device=volume.device, memory_format=torch.channels_last)
