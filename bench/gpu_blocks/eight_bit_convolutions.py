"""The VAE's two largest convolutions in 8 bits beside cuDNN's in 16, and what writes their volumes.

A form of the kernel is timed only if its numbers are those of plain torch.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu_blocks.bench import Bench
from models.errors import first_line
from models.kernels.eight_bit_conv import (
    ScaledWeight,
    convolved_in_plain_torch,
    norm_scale,
    scaled_weight,
)
from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.operations import FP8
from models.kernels.pixel_operations import EAGER_PIXELS
from models.speed.fp8 import closeness
from models.vae.causal_conv import channels_last, empty_pictures

_SHAPES = ((16, 96, 480, 832), (16, 192, 240, 416))
"""Frames of a chunk, channels, height and width of the decoder's two largest resolutions at 832x480."""
_TILES = ((128, 8), (64, 8), (128, 4))
"""Depths of a tile, and warps that share it."""
_PAST, _BOUND = 2, 0.01
"""Bound on the error beside plain torch (L2 norm): sums are rounded to 16 bits."""


def measure(bench: Bench) -> None:
    """Measure at both sizes: volumes and convolutions, in 16 bits and in 8."""
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        for shape in ((3, 16, 6, 10),) if bench.tiny else _SHAPES:
            _measure(bench, shape)


def _measure(bench: Bench, shape: tuple[int, int, int, int]) -> None:
    channels, name = shape[1], " x ".join(map(str, shape))
    x = channels_last(torch.randn(shape, device=bench.device).to(bench.dtype))
    exact = torch.randn(channels, channels, 3, 3, 3, device=bench.device) / (27 * channels) ** 0.5
    weight = exact.to(bench.dtype).contiguous(memory_format=torch.channels_last_3d)
    volume, _ = _volume(bench, x, bench.dtype, f"16 bits, {name}")
    pictures = volume.transpose(0, 1)[None]
    rate = partial(_rate, bench, 2 * 27 * channels * x.numel())
    rate(f"conv3d, {name}", lambda: F.conv3d(pictures, weight, padding=(0, 1, 1)))
    small, scale = _volume(bench, x, FP8, f"8 bits, {name}")
    in_8_bits = scaled_weight(exact)
    for form, convolve in _forms(bench, scale, in_8_bits).items():
        if _is_right(bench, f"{form}, {name}", convolve, small[:3], scale, in_8_bits):
            rate(f"{form}, {name}", partial(convolve, small))


def _volume(bench: Bench, x: Tensor, dtype: torch.dtype, name: str) -> tuple[Tensor, Tensor]:
    """Norm frames into a volume, timed; return it and the scale of one in 8 bits."""
    gamma = torch.ones(x.shape[1], device=bench.device, dtype=bench.dtype)
    volume = empty_pictures((_PAST + len(x), *x.shape[1:]), x, dtype)
    latest, scale = empty_pictures((_PAST, *x.shape[1:]), x, dtype), norm_scale(gamma)
    operations = FUSED_PIXELS if bench.device.type == "cuda" else EAGER_PIXELS
    fill = partial(operations.fill_volume, x, None, None, gamma, None, volume, latest, False)
    seconds = bench.seconds(lambda: fill(scale if dtype == FP8 else None))
    rate = f"{(x.nbytes + volume.nbytes + latest.nbytes) / seconds / 1e12:.3g} TB/s"
    bench.found("figure", f"volume in {name}", seconds * 1e3, "ms", note=rate)
    return volume, scale


def _forms(bench: Bench, scale: Tensor, weight: ScaledWeight) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forms of the convolution in 8 bits by their names: on CUDA the kernel with several tiles."""
    if bench.device.type != "cuda":
        plain = partial(convolved_in_plain_torch, scale=scale, weight=weight, halo=0, dtype=bench.dtype)
        return {"in 8 bits by plain torch": plain}
    from models.kernels.conv_kernel import Tile, convolve  # which needs Triton

    return {
        f"in 8 bits, a depth of {depth} and {warps} warps": partial(
            convolve,
            weight=weight.values,
            scale=scale,
            weight_scale=weight.scale,
            halo=0,
            dtype=bench.dtype,
            tile=Tile(depth=depth, warps=warps),
        )
        for depth, warps in _TILES
    }


def _is_right(
    bench: Bench,
    name: str,
    convolve: Callable[[Tensor], Tensor],
    volume: Tensor,
    scale: Tensor,
    weight: ScaledWeight,
) -> bool:
    """Tell how near a form is to plain torch, in a volume of few frames."""
    try:
        found = convolve(volume)
    except Exception as error:  # of one form, that the others are measured after
        bench.found("failure", name, note=first_line(error))
        return False
    expected = convolved_in_plain_torch(volume, scale, weight, 0, bench.dtype)
    near = closeness(found, expected)
    bench.found("gate", name, near.error, "error", wanted=_BOUND, note=str(near))
    return near.error <= _BOUND


def _rate(bench: Bench, operations: int, name: str, work: Callable[[], object]) -> None:
    seconds = bench.seconds(work, 3)
    rate = f"{operations / seconds / 1e12:.3g} TFLOP/s"
    bench.found("figure", name, seconds * 1e3, "ms", note=rate)
