"""Triton kernel that writes frames as YUV 4:2:0, in one pass. Importing this module needs Triton."""

import triton
import triton.language as tl
from torch import Tensor

from models.kernels.yuv import BLUE, RED, TAPS

_BLOCK = 128
"""Pixels of a chroma row in a program."""
_BLUE_CHROMA, _RED_CHROMA = (224.0 / (2.0 - 2.0 * share) for share in (BLUE, RED))


@triton.jit
def colours(place, known, channel_stride, RED: tl.constexpr, BLUE: tl.constexpr):
    """Load pixels as red, blue and luma in 0 … 1."""
    red = tl.load(place, mask=known, other=0.0).to(tl.float32) * 0.5 + 0.5
    green = tl.load(place + channel_stride, mask=known, other=0.0).to(tl.float32) * 0.5 + 0.5
    blue = tl.load(place + 2 * channel_stride, mask=known, other=0.0).to(tl.float32) * 0.5 + 0.5
    return red, blue, RED * red + (1.0 - RED - BLUE) * green + BLUE * blue


@triton.jit
def level(value):
    """Round to a byte."""
    return tl.minimum(tl.maximum(tl.floor(value + 0.5), 0.0), 255.0).to(tl.uint8)


@triton.jit(do_not_specialize=["height", "width", "frame_stride", "channel_stride", "row_stride"])
def yuv420p_kernel(
    frames,
    out,
    height,
    width,
    frame_stride,
    channel_stride,
    row_stride,
    column_stride,
    RED: tl.constexpr,
    BLUE: tl.constexpr,
    RED_CHROMA: tl.constexpr,
    BLUE_CHROMA: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a part of a row of both chroma planes, and the luma of the two rows there; see ``yuv420p``."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1)
    frame = tl.program_id(2).to(tl.int64)
    half = width // 2
    known = column < half
    x = frames + frame * frame_stride + 2 * column * column_stride
    luma_out = out + frame * (height // 2 * 3) * width
    blues = tl.zeros((BLOCK,), tl.float32)
    reds = tl.zeros((BLOCK,), tl.float32)
    for number in tl.static_range(4):
        blue_pair = tl.zeros((BLOCK,), tl.float32)
        red_pair = tl.zeros((BLOCK,), tl.float32)
        for below in tl.static_range(2):
            # the filter is symmetric about the middle of the two rows; those beyond an edge are like the edge
            source = 2 * row + (number - 3 if below == 0 else 4 - number)
            place = x + tl.minimum(tl.maximum(source, 0), height - 1) * row_stride
            red, blue, luma = colours(place, known, channel_stride, RED, BLUE)
            red_2, blue_2, luma_2 = colours(place + column_stride, known, channel_stride, RED, BLUE)
            blue_pair += ((blue - luma) * BLUE_CHROMA + (blue_2 - luma_2) * BLUE_CHROMA) * 0.5
            red_pair += ((red - luma) * RED_CHROMA + (red_2 - luma_2) * RED_CHROMA) * 0.5
            if number == 3:
                corner = luma_out + source * width + 2 * column
                tl.store(corner, level(16.0 + 219.0 * luma), mask=known)
                tl.store(corner + 1, level(16.0 + 219.0 * luma_2), mask=known)
        blues += blue_pair * TAPS[number]
        reds += red_pair * TAPS[number]
    chroma_out = luma_out + height * width + row * half + column
    tl.store(chroma_out, level(128.0 + blues), mask=known)
    tl.store(chroma_out + height // 2 * half, level(128.0 + reds), mask=known)


def yuv420p(frames: Tensor, out: Tensor) -> None:
    """Launch on frames ``[n, 3, height, width]`` of even sizes; ``out`` is contiguous."""
    count, _, height, width = frames.shape
    yuv420p_kernel[(triton.cdiv(width // 2, _BLOCK), height // 2, count)](
        frames,
        out,
        height,
        width,
        *frames.stride(),
        RED=RED,
        BLUE=BLUE,
        RED_CHROMA=_RED_CHROMA,
        BLUE_CHROMA=_BLUE_CHROMA,
        TAPS=TAPS,
        BLOCK=_BLOCK,
        num_warps=4,
    )
