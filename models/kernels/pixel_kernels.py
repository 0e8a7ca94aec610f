"""Triton kernels of the VAE, some pixels a program: sum, norm and SiLU; sum, in frames.

A program holds its pixels in registers, so that each value is read and written once. Importing this module
needs Triton.
"""

import triton
import triton.language as tl
from torch import Tensor

from models.kernels.pixel_operations import PIXEL_EPS

_BLOCK = 4096
"""Values of a program: those of a single pixel would keep it too little busy."""
_WARPS = 4


@triton.jit
def load_sum(x, bias, residual, offsets, mask, channels, known):
    """Load pixels, and add bias and residual in float32. ``known``: mask of the channels."""
    value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit(do_not_specialize=["pixels", "frame", "out_frame"])  # the size of a video compiles nothing
def add_norm_kernel(
    x,
    bias,
    residual,
    gamma,
    out,
    summed,
    pixels,
    frame,
    out_frame,
    eps,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sum, norm and SiLU of some pixels; see ``add_norm``.

    ``frame``, ``out_frame``: pixels from one frame to the next. A pointer of None leaves its part out.
    """
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    channels = tl.arange(0, WIDTH)[None, :]
    known = channels < CHANNELS
    mask = (pixel < pixels) & known
    offsets = pixel.to(tl.int64) * CHANNELS + channels
    value = load_sum(x, bias, residual, offsets, mask, channels, known).to(x.dtype.element_ty)
    if summed is not None:
        tl.store(summed + offsets, value, mask=mask)
    value = value.to(tl.float32)
    if gamma is not None:
        value = value / tl.sqrt(tl.sum(value * value, 1, keep_dims=True) / CHANNELS + eps)
        value *= tl.load(gamma + channels, mask=known, other=0.0).to(tl.float32)
        value *= tl.sigmoid(value)
    place = (pixel // frame).to(tl.int64) * out_frame + pixel % frame
    tl.store(out + place * CHANNELS + channels, value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "out_frame"])
def add_frames_kernel(
    x,
    bias,
    residual,
    out,
    height,
    width,
    out_height,
    out_width,
    out_frame,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Sum of some pixels of a frame, in one part of the channels; see ``add_frames``.

    ``out_frame``: pixels from one frame to the next.
    """
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    part, frame = tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, column = pixel // out_width, pixel % out_width
    inside = (row < height) & (column < width)
    columns = tl.arange(0, WIDTH)[None, :]
    known = columns < CHANNELS
    channels = part * CHANNELS + columns
    offsets = ((frame * height + row) * width + column) * (PARTS * CHANNELS) + channels
    value = load_sum(x, bias, residual, offsets, inside & known, channels, known)
    value = tl.where(inside, value, 0.0)
    place = (frame * PARTS + part) * out_frame + pixel
    mask = (pixel < out_height * out_width) & known
    tl.store(out + place * CHANNELS + columns, value.to(out.dtype.element_ty), mask=mask)


def add_norm(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gamma: Tensor | None,
    out: Tensor,
    summed: Tensor | None,
) -> None:
    """Launch on pictures ``[t, channels, height, width]``, channels-last."""
    t, channels, height, width = x.shape
    pixels, block = t * height * width, triton.next_power_of_2(channels)
    count = max(_BLOCK // block, 1)
    add_norm_kernel[(triton.cdiv(pixels, count),)](
        x,
        bias,
        residual,
        gamma,
        out,
        summed,
        pixels,
        height * width,
        out.stride(0) // channels,
        PIXEL_EPS,
        CHANNELS=channels,
        WIDTH=block,
        PIXELS=count,
        num_warps=_WARPS,
    )


def add_frames(x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
    """Launch on pictures ``[t, channels, height, width]``, channels-last."""
    t, _, height, width = x.shape
    channels, out_height, out_width = out.shape[1:]
    block = triton.next_power_of_2(channels)
    parts, count = x.shape[1] // channels, max(_BLOCK // block, 1)
    add_frames_kernel[(triton.cdiv(out_height * out_width, count), parts, t)](
        x,
        bias,
        residual,
        out,
        height,
        width,
        out_height,
        out_width,
        out.stride(0) // channels,
        CHANNELS=channels,
        WIDTH=block,
        PIXELS=count,
        PARTS=parts,
        num_warps=_WARPS,
    )
