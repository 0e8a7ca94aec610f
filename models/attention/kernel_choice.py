"""Which kernel a model's self-attention is computed with: the one that is named, or the fastest one here."""

from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from models.attention.kernels import KERNELS, LOSSY, AttentionKernel, sdpa, why_not
from models.errors import TuningError, first_line
from models.tuning import Attention

_TOKENS = 32768
"""Tokens to measure with, at most: about 81 frames of 832x480, a twentieth of a second a call."""
_WARM_UPS, _CALLS = 2, 5
_DIFFERENCE = 0.02
"""Of what sdpa makes, relative, up to which a kernel counts as exact in 16 bits."""


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The chosen kernel, and how it came to that, for the log."""

    name: str
    kernel: AttentionKernel
    measured_ms: dict[str, float] = field(default_factory=dict)
    """The median time of one call; empty where nothing was measured."""
    ruled_out: dict[str, str] = field(default_factory=dict)
    """Why the others were not measured."""

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(self.measured_ms.items()))
        reasons = ", ".join(f"{name} {reason}" for name, reason in self.ruled_out.items())
        return f"attention {self.name}" + (f" ({times}; {reasons})" if times else "")


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What a rank computes at once: ``heads`` are its own; ``ring`` is the ring's number of ranks."""

    heads: int
    tokens: int
    head_dim: int
    ring: int = 1


def choose(
    setting: Attention, device: torch.device, dtype: torch.dtype, shape: AttentionShape
) -> AttentionChoice:
    """The kernel for a setting. Raises ``TuningError`` if a kernel that is named cannot work here.

    ``auto`` measures on the device, which takes seconds; on a CPU, and in a ring, there is nothing to choose.
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
    # seeded apart, so that a measurement changes nobody's random numbers
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
    """Whether a kernel's result is further off than 16 bits explain, or is no number at all."""
    difference = (attended.float() - expected.float()).norm()
    return not bool(difference <= _DIFFERENCE * expected.float().norm())


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
