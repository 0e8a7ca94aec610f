"""Choice of the VAE's fused operations: Triton's kernels where they work on CUDA, else plain torch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.choice import differ, reason_against
from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.pixel_operations import EAGER_PIXELS, PixelOperations

_T, _HEIGHT, _WIDTH = 2, 3, 5


@dataclass(frozen=True, slots=True)
class PixelsChoice:
    """The chosen operations, and why not the fused ones, for the log."""

    operations: PixelOperations
    ruled_out: str | None = None
    """Why the fused ones cannot be used, as the end of a sentence; None where they are."""

    def __str__(self) -> str:
        if self.ruled_out is None:
            return "norms and sums between convolutions by fused Triton kernels"
        return f"norms and sums between convolutions by plain torch (fused kernels: {self.ruled_out})"


def choose_pixels(device: torch.device, dtype: torch.dtype, channels: int) -> PixelsChoice:
    """Choose the operations for a device: a trial at one of the VAE's widths decides on CUDA."""
    reason = reason_against(device, lambda: first_difference(FUSED_PIXELS, device, dtype, channels))
    return PixelsChoice(FUSED_PIXELS if reason is None else EAGER_PIXELS, reason)


def first_difference(
    operations: PixelOperations, device: torch.device, dtype: torch.dtype, channels: int
) -> str | None:
    """Return the name of the first operation that differs from the eager one by more than rounding."""
    found = _trial(operations, device, dtype, channels)
    expected = _trial(EAGER_PIXELS, device, dtype, channels)
    for (name, result), (_, wanted) in zip(found, expected, strict=True):
        if differ(result, wanted):
            return name
    return None


@torch.inference_mode()
def _trial(
    operations: PixelOperations, device: torch.device, dtype: torch.dtype, channels: int
) -> Iterator[tuple[str, Tensor]]:
    """Run the forms of the operations that the VAE uses on the same inputs; yield float32 results."""
    generator = torch.Generator().manual_seed(0)

    def pictures(channels: int = channels) -> Tensor:
        values = torch.randn(_T, channels, _HEIGHT, _WIDTH, generator=generator)
        return values.to(device, dtype).contiguous(memory_format=torch.channels_last)

    bias, gamma = torch.randn(2, channels, generator=generator).to(device)
    volume = torch.cat([pictures(), pictures()])
    for residual, before, keep in ((pictures(), None, True), (None, pictures(), False)):
        x, latest = pictures(), pictures()
        operations.fill_volume(x, bias, residual, gamma.to(dtype), before, volume, latest, keep)
        for written in (volume, latest, x):
            yield "fill_volume", written.float()
    out = torch.cat([pictures(), pictures()])
    operations.add_frames(pictures(2 * channels), bias.repeat(2), None, out)
    yield "add_frames", out.float()
    larger = F.pad(pictures(), (0, 1, 0, 1), value=2.0)
    operations.add_frames(pictures(), bias, None, larger)
    yield "add_frames", larger.float()
    frames = torch.rand(_T, 3, 2 * _HEIGHT, 2 * _WIDTH, generator=generator) * 2 - 1
    out = torch.zeros(_T, 3 * _HEIGHT, 2 * _WIDTH, dtype=torch.uint8, device=device)
    operations.yuv420p(frames.to(device, dtype), out)
    yield "yuv420p", out.float()
