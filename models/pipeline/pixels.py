"""Conversion of decoded frames, ``[n, 3, height, width]`` in −1 … 1, to the bytes of a pixel format."""

import torch
from torch import Tensor

from models.kernels.pixel_operations import EAGER_PIXELS, PixelOperations
from models.pixel_format import PixelFormat


def converted(chunk: Tensor, pixel_format: PixelFormat, operations: PixelOperations = EAGER_PIXELS) -> Tensor:
    """Return the frames as uint8, each of ``pixel_format.frame_shape``."""
    if pixel_format is PixelFormat.RGB24:
        return levels(chunk)
    frames, _, height, width = chunk.shape
    shape = frames, *pixel_format.frame_shape(width, height)
    out = torch.empty(shape, dtype=torch.uint8, device=chunk.device)
    operations.yuv420p(chunk, out)
    return out


def levels(chunk: Tensor) -> Tensor:
    """Return the frames as RGB, uint8 ``[n, height, width, 3]``."""
    rgb = (chunk.float() * 0.5 + 0.5).mul(255.0).round().to(torch.uint8)
    return rgb.permute(0, 2, 3, 1).contiguous()
