"""Choice of the self-attention kernel: the one named in the settings, or the fastest measured on this
device.
"""

from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from models.attention.kernels import KERNELS, LOSSY, AttentionKernel, sdpa, why_not
from models.errors import TuningError, first_line
from models.tuning import Attention

_TOKENS = 32768
"""Upper limit on the tokens of a measurement: about 81 frames of 832x480, a twentieth of a second a call."""
_WARM_UPS, _CALLS = 2, 5
_TOLERANCE = 0.02
"""Largest relative difference (L2 norm) from sdpa's result at which a kernel counts as exact in 16 bits."""


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The chosen kernel, and the measurements behind the choice, for the log."""

    name: str
    kernel: AttentionKernel
    measured_ms: dict[str, float] = field(default_factory=dict)
    """Median time of one call of each measured kernel; empty where nothing was measured."""
    ruled_out: dict[str, str] = field(default_factory=dict)
    """Reason for each kernel that was not measured, as the end of a sentence."""

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(self.measured_ms.items()))
        reasons = ", ".join(f"{name} {reason}" for name, reason in self.ruled_out.items())
        return f"attention {self.name}" + (f" ({times}; {reasons})" if times else "")


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Size of one rank's self-attention: its own ``heads``, and the number of ranks in its ``ring``."""

    heads: int
    tokens: int
    head_dim: int
    ring: int = 1


def choose(
    setting: Attention, device: torch.device, dtype: torch.dtype, shape: AttentionShape
) -> AttentionChoice:
    """Choose the kernel for a setting.

    ``auto`` measures the exact kernels on a CUDA device, which takes seconds; on a CPU, and in ring
    attention, sdpa is the only choice.

    Raises ``TuningError`` if the named kernel cannot run here.
    """
    if shape.ring > 1:
        if setting not in ("auto", "sdpa"):
            raise TuningError(
                f"attention {setting} cannot serve a ring of devices, whose parts merge by the logs of their "
                f"scores' sums: choose auto or sdpa, or Ulysses in place of the ring."
            )
        return AttentionChoice("sdpa", sdpa)
    if setting != "auto":
        reason = why_not(setting, device, dtype, shape.head_dim)
        if reason is not None:
            raise TuningError(f"attention {setting} cannot be used: it {reason}.")
        return AttentionChoice(setting, KERNELS[setting])
    if device.type != "cuda":
        return AttentionChoice("sdpa", sdpa)
    return _fastest(device, dtype, shape)


def _fastest(device: torch.device, dtype: torch.dtype, shape: AttentionShape) -> AttentionChoice:
    candidates = [name for name in KERNELS if name not in LOSSY]
    reasons = {name: why_not(name, device, dtype, shape.head_dim) for name in candidates}
    ruled_out = {name: reason for name, reason in reasons.items() if reason is not None}
    # its own generator, so that a measurement leaves the global random state unchanged
    generator = torch.Generator(device).manual_seed(0)
    size = (1, shape.heads, min(shape.tokens, _TOKENS), shape.head_dim)
    inputs = tuple(torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(3))
    expected = sdpa(*inputs)
    measured: dict[str, float] = {}
    for name in candidates:
        if name in ruled_out:
            continue
        try:
            if differs(KERNELS[name](*inputs), expected):
                ruled_out[name] = "gives other numbers here"
            else:
                measured[name] = _median_ms(KERNELS[name], inputs)
        except RuntimeError as error:
            ruled_out[name] = f"does not run here: {first_line(error)}"
    name = min(measured, key=measured.__getitem__)
    return AttentionChoice(name, KERNELS[name], measured, ruled_out)


def differs(attended: Tensor, expected: Tensor) -> bool:
    """Return whether a kernel's result differs by more than 16-bit rounding, or has NaNs."""
    difference = (attended.float() - expected.float()).norm()
    return not bool(difference <= _TOLERANCE * expected.float().norm())


def _median_ms(kernel: AttentionKernel, inputs: tuple[Tensor, ...]) -> float:
    for _ in range(_WARM_UPS):
        kernel(*inputs)
    times: list[float] = []
    for _ in range(_CALLS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        kernel(*inputs)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)
