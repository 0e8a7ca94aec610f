"""The VAE's fused operations: operators of torch's library that launch Triton kernels, imported at the first
call.

An operator writes the arguments that it changes once and reads each of the others once: the bytes it moves
are those of its tensors.
"""

import torch
from torch import Tensor
from torch.library import custom_op

from models.kernels.averaged import Averaged
from models.kernels.pixel_operations import Residual
from models.kernels.repeated import Repeated

_NAMESPACE = "wan_serve"


@custom_op(f"{_NAMESPACE}::fill_volume", mutates_args=("volume", "latest", "summed"))
def _fill_volume(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gamma: Tensor | None,
    before: Tensor | None,
    volume: Tensor,
    latest: Tensor,
    summed: Tensor | None,
    spread: list[int] | None,
    pooled: list[int] | None,
    scale: Tensor | None,
) -> None:
    from models.kernels import pixel_kernels

    with torch.cuda.device_of(x):
        pixel_kernels.fill_volume(
            x, bias, residual, gamma, before, volume, latest, summed, spread, pooled, scale
        )


@custom_op(f"{_NAMESPACE}::add_frames", mutates_args=("out",))
def _add_frames(x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
    from models.kernels import pixel_kernels

    with torch.cuda.device_of(x):
        pixel_kernels.add_frames(x, bias, residual, out)


@custom_op(f"{_NAMESPACE}::yuv420p", mutates_args=("out",))
def _yuv420p(frames: Tensor, out: Tensor) -> None:
    from models.kernels import yuv_kernel

    with torch.cuda.device_of(frames):
        yuv_kernel.yuv420p(frames, out)


class FusedPixels:
    """Implements ``models.kernels.pixel_operations.PixelOperations`` by one kernel each.

    Needs Triton and a CUDA device, or fake tensors, or Triton's interpreter.
    """

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
        # another tensor on the same memory, of which each value is read before it is written
        summed = x.view_as(x) if keep else None
        spread = pooled = None
        if isinstance(residual, Repeated):
            spread = [*residual.spread.sides[1:3], *residual.spread.own, residual.skipped]
            residual = residual.values
        elif isinstance(residual, Averaged):
            pooled = [residual.time, residual.size, residual.group, residual.lacking]
            residual = residual.values
        _fill_volume(x, bias, residual, gamma, before, volume, latest, summed, spread, pooled, scale)

    def add_frames(self, x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
        """Write the sum to ``out``, each part of its channels as a frame."""
        _add_frames(x, bias, residual, out)

    def yuv420p(self, frames: Tensor, out: Tensor) -> None:
        """Write the frames as YUV 4:2:0 to ``out``."""
        _yuv420p(frames, out)


FUSED_PIXELS = FusedPixels()
