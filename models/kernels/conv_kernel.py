"""Triton kernel of the 8-bit convolution: one matrix product whose rows are gathered while it multiplies.

A row is the 27 pixels around one of the result, ``27 · channels`` values; the weight lies in memory in their
order. Importing this module needs Triton.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.compiler import max_shared_mem

from models.kernels.operations import FP8

_PAST = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program of the kernel multiplies at once."""

    pixels: int = 128
    depth: int = 128
    """Values of a row."""
    warps: int = 8
    stages: int = 4
    """Parts of that depth that are on their way, where the device has shared memory for them."""


TILE = Tile()
_OUTPUTS = ((128, 64), (64, 32), (128, 0))
"""Output channels of a program, as tiles of powers of two: of a 96 or a 192 none is computed in vain."""


@triton.jit
def load_weight(weight, outputs, depth, DEPTH: tl.constexpr, OUTPUTS: tl.constexpr):
    """Load ``[depth, outputs]`` of the weight, zeros beyond its sides ``DEPTH`` and ``OUTPUTS``."""
    known = (depth < DEPTH)[:, None] & (outputs < OUTPUTS)[None, :]
    return tl.load(weight + outputs[None, :] * DEPTH + depth[:, None], mask=known, other=0.0)


@triton.jit
def store_sums(sums, out, scale, weight_scale, pixel, outputs, pixels, OUTPUTS: tl.constexpr):
    """Scale sums, and store them as ``out``'s dtype."""
    known = outputs < OUTPUTS
    factors = tl.load(weight_scale + outputs, mask=known, other=0.0) * tl.load(scale)
    place = out + pixel.to(tl.int64)[:, None] * OUTPUTS + outputs[None, :]
    value = (sums * factors[None, :]).to(out.dtype.element_ty)
    tl.store(place, value, mask=(pixel < pixels)[:, None] & known[None, :])


@triton.jit(do_not_specialize=["rows", "width", "pixels", "halo"])  # the size of a video compiles nothing
def convolve_kernel(
    volume,
    weight,
    scale,
    weight_scale,
    out,
    rows,
    width,
    pixels,
    halo,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
):
    """Some pixels of one frame, in ``WIDE + REST`` output channels; see ``convolve``.

    ``rows``: of the volume, ``halo`` of them above and below the result; ``pixels``: of a frame of the
    result.
    """
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    frame = tl.program_id(1).to(tl.int64)
    outputs = tl.program_id(2) * (WIDE + REST) + tl.arange(0, WIDE)
    row, column = pixel // width + halo, pixel % width
    volume += frame * rows * width * CHANNELS
    sums = tl.zeros((PIXELS, WIDE), tl.float32)
    if REST > 0:
        others = tl.program_id(2) * (WIDE + REST) + WIDE + tl.arange(0, REST)
        more = tl.zeros((PIXELS, REST), tl.float32)
    for start in range(0, 27 * CHANNELS, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        tap, channel = depth // CHANNELS, depth % CHANNELS
        above, left = tap // 3 % 3 - 1, tap % 3 - 1
        source_row, source_column = row[:, None] + above[None, :], column[:, None] + left[None, :]
        inside = (source_row >= 0) & (source_row < rows) & (source_column >= 0) & (source_column < width)
        inside &= (depth < 27 * CHANNELS)[None, :]
        from_pixel = ((tap // 9 * rows + above) * width + left) * CHANNELS + channel
        place = (pixel + halo * width)[:, None] * CHANNELS + from_pixel[None, :]
        values = tl.load(volume + place, mask=inside, other=0.0)
        weights = load_weight(weight, outputs, depth, 27 * CHANNELS, OUTPUTS)
        sums = tl.dot(values, weights, sums, max_num_imprecise_acc=DEPTH)
        if REST > 0:
            weights = load_weight(weight, others, depth, 27 * CHANNELS, OUTPUTS)
            more = tl.dot(values, weights, more, max_num_imprecise_acc=DEPTH)
    out += frame * pixels * OUTPUTS
    store_sums(sums, out, scale, weight_scale, pixel, outputs, pixels, OUTPUTS)
    if REST > 0:
        store_sums(more, out, scale, weight_scale, pixel, others, pixels, OUTPUTS)


def convolve(
    volume: Tensor,
    weight: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    halo: int,
    dtype: torch.dtype,
    tile: Tile = TILE,
) -> Tensor:
    """Launch on a volume ``[2 + t, channels, height, width]``; see ``models.kernels.eight_bit_conv``."""
    frames, channels, rows, width = volume.shape
    height, outputs = rows - 2 * halo, len(weight)
    out = torch.empty(
        (frames - _PAST, outputs, height, width),
        dtype=dtype,
        device=volume.device,
        memory_format=torch.channels_last,
    )
    wide, rest = output_tiles(outputs)
    pixels = height * width
    convolve_kernel[(triton.cdiv(pixels, tile.pixels), len(out), triton.cdiv(outputs, wide + rest))](
        volume,
        weight,
        scale,
        weight_scale,
        out,
        rows,
        width,
        pixels,
        halo,
        CHANNELS=channels,
        OUTPUTS=outputs,
        PIXELS=tile.pixels,
        DEPTH=tile.depth,
        WIDE=wide,
        REST=rest,
        num_warps=tile.warps,
        num_stages=_stages(volume.device, tile, wide + rest),
    )
    return out


def output_tiles(outputs: int) -> tuple[int, int]:
    """Return the output channels of a program, as a power of two and a smaller one or 0."""
    for wide, rest in _OUTPUTS:
        if outputs % (wide + rest) == 0:
            return wide, rest
    return min(max(triton.next_power_of_2(outputs), 16), 128), 0


def _stages(device: torch.device, tile: Tile, outputs: int) -> int:
    """Return how many parts of a tile a program of the device has shared memory for."""
    if device.type != "cuda":
        return tile.stages
    of_one = tile.depth * (tile.pixels + outputs) * FP8.itemsize
    index = torch.cuda.current_device() if device.index is None else device.index
    memory: int = max_shared_mem(index)
    return max(min(tile.stages, memory // of_one), 1)
