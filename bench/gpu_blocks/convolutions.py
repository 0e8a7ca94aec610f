"""The VAE's large convolutions, as 2D ones over stacked past frames and as 3D ones; those that enlarge; and
its RMS norm.
"""

import torch
import torch.nn.functional as F

from bench.gpu_blocks.bench import Bench
from models.vae.causal_conv import channels_last, enlarging_weight

_SHAPES = ((96, 480, 832), (192, 240, 416), (384, 120, 208), (384, 60, 104))
"""Channels, height and width of the decoder's resolutions at 832x480."""


def measure(bench: Bench) -> None:
    """Measure both forms in each dtype, with 1 and 4 frames, with and without cuDNN's own choice by trial."""
    shapes = ((8, 16, 24),) if bench.tiny else _SHAPES
    dtypes = (torch.bfloat16, torch.float16) if bench.device.type == "cuda" else (torch.float32,)
    for trial in (False, True):
        torch.backends.cudnn.benchmark = trial
        for dtype in dtypes:
            for channels, height, width in shapes:
                how = "by trial" if trial else ""
                for frames in (1, 4):
                    _both(bench, (frames, channels, height, width), dtype, how)
                _enlarging(bench, (4, channels, height // 2, width // 2), dtype, how)
    channels, height, width = shapes[0]
    pixels = torch.randn(4, height, width, channels, device=bench.device, dtype=bench.dtype)
    seconds = bench.seconds(lambda: F.rms_norm(pixels, (channels,)))
    bench.found("figure", f"RMS norm of {channels} channels", 2 * pixels.nbytes / seconds / 1e12, "TB/s")


def _enlarging(bench: Bench, shape: tuple[int, int, int, int], dtype: torch.dtype, how: str) -> None:
    """Measure a convolution that halves the channels of frames twice as large, and both in one."""
    channels = shape[1]
    pictures = channels_last(torch.randn(shape, device=bench.device, dtype=dtype))
    weight = torch.randn(channels // 2, channels, 3, 3, device=bench.device, dtype=dtype)
    plain, folded = channels_last(weight), enlarging_weight(weight)
    name = f"{' x '.join(map(str, shape))} {str(dtype).removeprefix('torch.')} {how}".strip()
    with torch.inference_mode():
        for form, seconds in (
            (
                "enlarged, then conv2d",
                bench.seconds(
                    lambda: F.conv2d(F.interpolate(pictures, scale_factor=2.0), plain, padding=1), 3
                ),
            ),
            (
                "conv_transpose2d",
                bench.seconds(lambda: F.conv_transpose2d(pictures, folded, stride=2, padding=1), 3),
            ),
        ):
            bench.found("figure", f"{form} {name}", seconds * 1e3, "ms")


def _both(bench: Bench, shape: tuple[int, int, int, int], dtype: torch.dtype, how: str) -> None:
    frames, channels, height, width = shape
    options = {"device": bench.device, "dtype": dtype}
    flat = torch.randn(frames, 3 * channels, height, width, **options)  # type: ignore[call-overload]
    flat = flat.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 3 * channels, 3, 3, **options)  # type: ignore[call-overload]
    weight = weight.contiguous(memory_format=torch.channels_last)
    video = torch.randn(1, channels, frames + 2, height, width, **options)  # type: ignore[call-overload]
    video = video.contiguous(memory_format=torch.channels_last_3d)
    weight_3d = torch.randn(channels, channels, 3, 3, 3, **options)  # type: ignore[call-overload]
    weight_3d = weight_3d.contiguous(memory_format=torch.channels_last_3d)
    name = f"{frames} x {channels} x {height} x {width} {str(dtype).removeprefix('torch.')} {how}".strip()
    operations = 2 * frames * height * width * 27 * channels**2
    with torch.inference_mode():
        for form, seconds in (
            ("conv2d", bench.seconds(lambda: F.conv2d(flat, weight, padding=1), 3)),
            ("conv3d", bench.seconds(lambda: F.conv3d(video, weight_3d, padding=(0, 1, 1)), 3)),
        ):
            rate = f"{operations / seconds / 1e12:.3g} TFLOP/s"
            bench.found("figure", f"{form} {name}", seconds * 1e3, "ms", note=rate)
