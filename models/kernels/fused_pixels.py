"""The VAE's fused operations: operators of torch's library that launch Triton kernels, imported at the first
call.

An operator writes ``out`` and ``summed`` once and reads each of its other arguments once: the bytes it moves
are those of its tensors.
"""

import torch
from torch import Tensor
from torch.library import custom_op

_NAMESPACE = "wan_serve"


@custom_op(f"{_NAMESPACE}::add_norm", mutates_args=("out", "summed"))
def _add_norm(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gamma: Tensor | None,
    out: Tensor,
    summed: Tensor | None,
) -> None:
    from models.kernels import pixel_kernels

    with torch.cuda.device_of(x):
        pixel_kernels.add_norm(x, bias, residual, gamma, out, summed)


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

    def add_norm(
        self,
        x: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        gamma: Tensor | None,
        out: Tensor,
        keep: bool,
    ) -> None:
        """Write norm and SiLU of the sum to ``out``, and the sum itself to ``x``."""
        # another tensor on the same memory, of which each value is read before it is written
        _add_norm(x, bias, residual, gamma, out, x.view_as(x) if keep else None)

    def add_frames(self, x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
        """Write the sum to ``out``, each part of its channels as a frame."""
        _add_frames(x, bias, residual, out)

    def yuv420p(self, frames: Tensor, out: Tensor) -> None:
        """Write the frames as YUV 4:2:0 to ``out``."""
        _yuv420p(frames, out)


FUSED_PIXELS = FusedPixels()
