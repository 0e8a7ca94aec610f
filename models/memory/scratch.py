"""Measurement of the scratch memory of this processor's kernels.

GPU kernels need none to speak of, and neither do CPU kernels in float32. In 16 bits it depends on the
processor: one without 16-bit instructions computes in float32 copies or, for convolutions, in unfolded input
windows (im2col), which can take several times as much as everything else together.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memory.estimate import KernelScratch
from models.memory.peak import peak_bytes

_CPU = torch.device("cpu")
_CHANNELS, _SIDE, _KERNEL = 16, 48, 3
_FEW, _MANY = 16, 64
"""Output channels of two convolutions of the same input: their difference is the scratch memory of the
result.
"""
_ROWS, _INPUTS, _OUTPUTS = 256, 64, 512


def kernel_scratch(device: torch.device, dtype: torch.dtype) -> KernelScratch:
    """Return the scratch memory of kernels of ``dtype`` on ``device``, measured once per process."""
    if device.type != "cpu" or dtype.itemsize >= torch.float32.itemsize:
        return KernelScratch(volumes=device.type == "cuda")
    return _measured(dtype)


@cache
def _measured(dtype: torch.dtype) -> KernelScratch:
    with torch.inference_mode():
        few, many = _convolution(_FEW, dtype), _convolution(_MANY, dtype)
        pixels = _SIDE**2
        result = max((many - few) / (pixels * (_MANY - _FEW)), 0.0)
        return KernelScratch(
            linear=_linear(dtype) / (_ROWS * _OUTPUTS),
            result=result,
            column=max(few - result * pixels * _FEW, 0.0) / (pixels * _CHANNELS * _KERNEL**2),
        )


def _linear(dtype: torch.dtype) -> int:
    inputs, weight = torch.zeros(_ROWS, _INPUTS, dtype=dtype), torch.zeros(_OUTPUTS, _INPUTS, dtype=dtype)
    bias = torch.zeros(_OUTPUTS, dtype=dtype)
    return _scratch_bytes(lambda: F.linear(inputs, weight, bias))


def _convolution(outputs: int, dtype: torch.dtype) -> int:
    pictures = torch.zeros(1, _CHANNELS, _SIDE, _SIDE, dtype=dtype)
    weight, bias = (
        torch.zeros(outputs, _CHANNELS, _KERNEL, _KERNEL, dtype=dtype),
        torch.zeros(outputs, dtype=dtype),
    )
    pictures, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (pictures, weight))
    return _scratch_bytes(lambda: F.conv2d(pictures, weight, bias, padding=_KERNEL // 2))


def _scratch_bytes(kernel: Callable[[], Tensor]) -> int:
    size = kernel().nbytes  # the first call also allocates memory that stays for later calls
    return peak_bytes(kernel, _CPU) - size
