"""The speed at which a device multiplies two large matrices: the peak that shares refer to."""

import statistics
import time

import torch

_ROUNDS = 20


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int) -> float | None:
    """Return the median TFLOP/s of twenty square matmuls; None for a type that the device lacks."""
    if dtype == torch.float8_e4m3fn and not _multiplies_fp8(device):
        return None
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    scale = torch.ones((), device=device)
    seconds = []
    for _ in range(2 * _ROUNDS):  # the first half warms the device up
        _wait(device)
        began = time.perf_counter()
        if dtype == torch.float8_e4m3fn:
            torch._scaled_mm(
                left, right.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        else:
            left @ right
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[_ROUNDS:]) / 1e12


def _multiplies_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
