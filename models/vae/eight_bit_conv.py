"""A convolution of the VAE in 8-bit floats, after a norm: opt-in, for the decoder's two largest resolutions.

The kernel that norms writes the volume in 8 bits; that of the convolution multiplies it so. What is added to
the result, and the shortcuts around it, stay in the dtype of the VAE.
"""

from typing import Any

import torch
from torch import Tensor

from models.errors import TuningError, first_line
from models.kernels.choice import differ
from models.kernels.eight_bit_conv import (
    ScaledWeight,
    convolved,
    convolved_in_plain_torch,
    norm_scale,
    scaled_weight,
)
from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.operations import FP8
from models.kernels.pixel_operations import EAGER_PIXELS, PixelOperations
from models.vae.causal_conv import CausalConv, ConvForm, channels_last, empty_pictures
from models.vae.channel_norm import ChannelNorm
from models.vae.volumes import VolumeConv

_PAST, _FRAMES, _HEIGHT, _WIDTH = 2, 2, 5, 9


class EightBitConv(VolumeConv):
    """Convolves a volume of normed frames in 8 bits, 3 frames, rows and columns at once."""

    weight_scale: Tensor
    volume_dtype = FP8

    def __init__(self, conv: Any, *, operations: PixelOperations) -> None:
        super().__init__(conv, operations=operations)
        self.weight, weight_scale = scaled_weight(self.weight)
        self.register_buffer("weight_scale", weight_scale)

    def _convolved(self, frames: Tensor, norm: ChannelNorm | None, rows: int) -> Tensor:
        assert norm is not None, "only what is normed has a bound that is known before"
        weight = ScaledWeight(self.weight, self.weight_scale)
        return convolved(frames, norm.scale, weight, rows, norm.gamma.dtype)


def eight_bit_where_normed(
    conv: Any, enlarges: bool = False, *, others: ConvForm, operations: PixelOperations
) -> CausalConv:
    """Make a convolution of a residual block, which a norm precedes, in 8 bits, and any other as ``others``
    does.
    """
    if not enlarges and conv.weight.shape[2:] == (3, 3, 3):
        return EightBitConv(conv, operations=operations)
    return others(conv, enlarges)


def check_eight_bits(device: torch.device, dtype: torch.dtype, channels: int) -> None:
    """Raise ``TuningError`` unless the kernels work on a CUDA device: a trial with ``channels`` decides."""
    try:
        differs = _differs(device, dtype, channels)
        torch.cuda.synchronize(device)
    except Exception as error:  # a missing Triton, C compiler or an old driver makes Triton raise any type
        raise TuningError(
            f"vae_fp8 must be false here: its kernels do not run: {first_line(error)}."
        ) from error
    if differs:
        raise TuningError("vae_fp8 must be false here: its kernels give other numbers than plain torch.")


@torch.inference_mode()
def _trial(operations: PixelOperations, device: torch.device, dtype: torch.dtype, channels: int) -> Tensor:
    """Norm frames into a volume in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_FRAMES, channels, _HEIGHT, _WIDTH, generator=generator).to(device, dtype)
    x = channels_last(x)
    gamma = torch.ones(channels, dtype=dtype, device=device)
    volume = empty_pictures((_PAST + _FRAMES, *x.shape[1:]), x, FP8)
    latest = empty_pictures((_PAST, *x.shape[1:]), x, FP8)
    operations.fill_volume(x, None, None, gamma, None, volume, latest, False, norm_scale(gamma))
    return volume


@torch.inference_mode()
def _differs(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Return whether the results of the kernels differ from plain torch's by more than rounding."""
    volume, expected = (_trial(each, device, dtype, channels) for each in (FUSED_PIXELS, EAGER_PIXELS))
    generator = torch.Generator().manual_seed(0)
    weight = scaled_weight(torch.randn(channels, channels, 3, 3, 3, generator=generator).to(device))
    arguments = volume, norm_scale(torch.ones(channels, device=device)), weight, 0, dtype
    pairs = (volume, expected), (convolved(*arguments), convolved_in_plain_torch(*arguments))
    return any(differ(found.float(), wanted.float()) for found, wanted in pairs)
