"""Triton kernels of the VAE, some pixels a program: volumes of past frames and sum, norm and SiLU; sum, in
frames.

A program holds its pixels in registers, so that each value is read and written once. Importing this module
needs Triton.
"""

import triton
import triton.language as tl
from torch import Tensor

from models.kernels.operations import LARGEST
from models.kernels.pixel_operations import PIXEL_EPS

_BLOCK = 4096
"""Values of a program: those of a single pixel would keep it too little busy."""
_WARPS = 4
_LARGEST = tl.constexpr(LARGEST)
_SPREAD = ("TIME", "SIZE", "OWN", "OWN_FRAMES", "OWN_ROWS", "OWN_COLUMNS")
"""The kernel's constants that say how a residual is repeated."""
_POOLED = ("TIME", "SIZE", "GROUP")
"""Those that say how it is averaged."""


@triton.jit
def load_sum(x, bias, residual, offsets, residual_offsets, mask, channels, known):
    """Load pixels, and add bias and residual in float32. ``known``: mask of the channels."""
    value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + channels, mask=known, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + residual_offsets, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit
def repeated_offsets(
    frame,
    pixel,
    channels,
    width,
    pixels,
    TIME: tl.constexpr,
    SIZE: tl.constexpr,
    OWN: tl.constexpr,
    OWN_FRAMES: tl.constexpr,
    OWN_ROWS: tl.constexpr,
    OWN_COLUMNS: tl.constexpr,
):
    """Where the values lie that are repeated over these pixels of a frame.

    ``TIME``, ``SIZE``: frames and rows that a pixel becomes; the others: the ``own`` sides of ``Spread``.
    """
    row, column = pixel // width, pixel % width
    source = (frame // TIME) * (pixels // (SIZE * SIZE)) + (row // SIZE) * (width // SIZE) + column // SIZE
    channel = (channels % OWN) * OWN_FRAMES + frame % TIME % OWN_FRAMES
    channel = channel * OWN_ROWS + row % SIZE % OWN_ROWS
    channel = channel * OWN_COLUMNS + column % SIZE % OWN_COLUMNS
    return source * (OWN * OWN_FRAMES * OWN_ROWS * OWN_COLUMNS) + channel


@triton.jit
def load_mean(
    values,
    frame,
    pixel,
    channels,
    width,
    pixels,
    lacking,
    mask,
    CHANNELS: tl.constexpr,
    TIME: tl.constexpr,
    SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Load the values that become some pixels of a frame, and return their means, rounded as values are.

    ``TIME``, ``SIZE``: frames and rows that become one; ``GROUP``: values that become one; see ``Averaged``.
    """
    row, column = pixel // width, pixel % width
    total = tl.zeros(mask.shape, tl.float32)
    for turn in tl.static_range(GROUP):
        element = channels * GROUP + turn  # of channels, frames, rows and columns
        place = frame * TIME + element // (SIZE * SIZE) % TIME - lacking
        inner = (row * SIZE + element // SIZE % SIZE) * (width * SIZE) + column * SIZE + element % SIZE
        offsets = (place * (pixels * SIZE * SIZE) + inner) * (CHANNELS * GROUP // (TIME * SIZE * SIZE))
        offsets += element // (TIME * SIZE * SIZE)
        total += tl.load(values + offsets, mask=mask & (place >= 0), other=0.0).to(tl.float32)
    return (total / GROUP).to(values.dtype.element_ty).to(tl.float32)


@triton.jit
def rounded(value, scale, DTYPE: tl.constexpr):
    """Round float32 values to another dtype; to 8 bits by the ``scale`` at that address, None for none."""
    if scale is not None:
        # what is no number stays none: a decode that overflows is known by it
        value = tl.clamp(
            value * (1.0 / tl.load(scale)), -_LARGEST, _LARGEST, propagate_nan=tl.PropagateNan.ALL
        )
    return value.to(DTYPE)


@triton.jit
def store_frame(volume, latest, value, pixel, channels, mask, place, frames, area, CHANNELS: tl.constexpr):
    """Store pixels of the volume's frame ``place``, and once more where it is one of the latest."""
    offsets = pixel.to(tl.int64) * CHANNELS + channels
    frame = area.to(tl.int64) * CHANNELS
    tl.store(volume + place * frame + offsets, value, mask=mask)
    if place >= frames:
        tl.store(latest + (place - frames) * frame + offsets, value, mask=mask)


@triton.jit(do_not_specialize=["frames", "width", "pixels", "area", "shift"])  # sizes compile nothing
def fill_volume_kernel(
    x, bias, residual, gamma, scale, before, volume, latest, summed, frames, width, pixels, area, shift, eps,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
    PAST: tl.constexpr,
    TIME: tl.constexpr = 0,
    SIZE: tl.constexpr = 1,
    OWN: tl.constexpr = 1,
    OWN_FRAMES: tl.constexpr = 1,
    OWN_ROWS: tl.constexpr = 1,
    OWN_COLUMNS: tl.constexpr = 1,
    GROUP: tl.constexpr = 0,
):  # fmt: skip
    """Some pixels of one frame of a volume; see ``fill_volume``.

    ``frames``: how many are new. ``pixels``, ``area``: pixels of a frame of ``x`` and of the volume. A
    pointer of None leaves its part out. With ``GROUP`` so many values of ``residual`` are averaged, after
    ``shift`` frames of zeros; see ``load_mean``. Else with ``TIME`` they are repeated, from the frame
    ``shift`` on; see ``repeated_offsets``.
    """
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    place = tl.program_id(1)
    channels = tl.arange(0, WIDTH)[None, :]
    known = channels < CHANNELS
    if place < PAST:
        mask = (pixel < area) & known
        value = tl.zeros((PIXELS, WIDTH), volume.dtype.element_ty)
        if before is not None:
            offsets = (place.to(tl.int64) * area + pixel) * CHANNELS + channels
            value = tl.load(before + offsets, mask=mask, other=0.0)
        store_frame(volume, latest, value, pixel, channels, mask, place, frames, area, CHANNELS)
    else:
        mask = (pixel < pixels) & known
        frame = (place - PAST).to(tl.int64)
        offsets = (frame * pixels + pixel) * CHANNELS + channels
        from_residual = offsets
        if TIME > 0 and GROUP == 0:
            from_residual = repeated_offsets(
                frame + shift, pixel, channels, width, pixels,
                TIME, SIZE, OWN, OWN_FRAMES, OWN_ROWS, OWN_COLUMNS,
            )  # fmt: skip
        if GROUP > 0:
            value = load_sum(x, bias, None, offsets, offsets, mask, channels, known)
            value += load_mean(
                residual, frame, pixel, channels, width, pixels, shift, mask, CHANNELS, TIME, SIZE, GROUP
            )
        else:
            value = load_sum(x, bias, residual, offsets, from_residual, mask, channels, known)
        value = value.to(x.dtype.element_ty)
        if summed is not None:
            tl.store(summed + offsets, value, mask=mask)
        normed = value.to(tl.float32)
        if gamma is not None:
            normed = normed / tl.sqrt(tl.sum(normed * normed, 1, keep_dims=True) / CHANNELS + eps)
            normed *= tl.load(gamma + channels, mask=known, other=0.0).to(tl.float32)
            normed *= tl.sigmoid(normed)
        value = rounded(normed, scale, volume.dtype.element_ty)
        pixel += (area - pixels) // 2
        store_frame(volume, latest, value, pixel, channels, mask, place, frames, area, CHANNELS)


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
    value = load_sum(x, bias, residual, offsets, offsets, inside & known, channels, known)
    value = tl.where(inside, value, 0.0)
    place = (frame * PARTS + part) * out_frame + pixel
    mask = (pixel < out_height * out_width) & known
    tl.store(out + place * CHANNELS + columns, value.to(out.dtype.element_ty), mask=mask)


def fill_volume(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gamma: Tensor | None,
    before: Tensor | None,
    volume: Tensor,
    latest: Tensor,
    summed: Tensor | None,
    spread: list[int] | None = None,
    pooled: list[int] | None = None,
    scale: Tensor | None = None,
) -> None:
    """Launch on pictures ``[t, channels, height, width]``, channels-last.

    ``spread``: frames and rows that a pixel of ``residual`` becomes, its values' four ``own`` sides as in
    ``Spread``, and the frames left out at the start. ``pooled``: frames and rows of ``residual`` that become
    one, its values that do, and the frames of zeros before it. None for both where it is as large as ``x``.
    """
    t, channels, height, width = x.shape
    area, block = volume.shape[2] * width, triton.next_power_of_2(channels)
    count = max(_BLOCK // block, 1)
    fill_volume_kernel[(triton.cdiv(area, count), len(volume))](
        x,
        bias,
        residual,
        gamma,
        scale,
        before,
        volume,
        latest,
        summed,
        t,
        width,
        height * width,
        area,
        (spread or pooled or [0])[-1],
        PIXEL_EPS,
        CHANNELS=channels,
        WIDTH=block,
        PIXELS=count,
        PAST=len(latest),
        **dict(zip(_SPREAD, (spread or [])[:-1], strict=False)),
        **dict(zip(_POOLED, (pooled or [])[:-1], strict=False)),
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
