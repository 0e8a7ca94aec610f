"""Choice of the self-attention kernel: the one named in the settings, or the one preferred on this device,
unless another is measured to be clearly faster.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from types import MappingProxyType

import torch
from torch import Tensor

from models.attention.kernels import (
    KERNELS,
    WITH_LOGS,
    AttentionKernel,
    flash3_fp8,
    fp8_in_plain_torch,
    sdpa,
    sdpa_with_logs,
    why_not,
)
from models.errors import TuningError, first_line
from models.kernels.block_sparse import block_sparse_attention, block_sparse_in_plain_torch
from models.parallel.mesh import Mesh
from models.tuning import Attention

_PREFERENCE: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        9: ("flash3", "cudnn", "sdpa", "flash2"),  # Hopper
        10: ("cudnn", "sdpa", "flash2", "xformers"),  # Blackwell of data centres
        12: ("cudnn", "sdpa", "flash2", "xformers"),  # Blackwell of workstations
    }
)
"""Exact kernels in the order of preference, by the major compute capability."""
_ELSEWHERE: tuple[str, ...] = ("flash2", "sdpa", "cudnn", "xformers")
_CLEARLY = 1.05
"""Factor by which a kernel must be faster than one that is preferred to it. Times that differ by less may be
noise, and two kernels round differently: a model whose replicas chose apart would give a seed two videos.
"""

_TOKENS = 32768
"""Upper limit on the tokens of a measurement: about 81 frames of 832x480, a twentieth of a second a call."""
_WARM_UPS, _CALLS = 2, 5
_TOLERANCE = 0.02
"""Largest relative difference (L2 norm) from sdpa's result at which a kernel counts as exact in 16 bits."""
_TOLERANCE_IN_8_BITS = 0.1
"""The same of a kernel that rounds the softmax's weights to 8 bits, from one that does not."""
_TRIAL_BLOCK, _TRIAL_TOKENS = 128, 320
"""Two blocks and a shorter one, to try sparse attention on."""


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

    ``auto`` measures the exact kernels on a CUDA device, which takes seconds; on a CPU sdpa is the only
    choice.

    Raises ``TuningError`` if the named kernel cannot run here.
    """
    if setting != "auto":
        if shape.ring > 1 and KERNELS[setting] not in WITH_LOGS:
            able = ", ".join(name for name, kernel in KERNELS.items() if kernel in WITH_LOGS)
            raise TuningError(
                f"attention {setting} cannot serve a ring of devices, whose parts merge by the logs of their "
                f"scores' sums: choose auto or one of {able}, or Ulysses in place of the ring."
            )
        reason = why_not(setting, device, dtype, shape.head_dim)
        if reason is None and KERNELS[setting] is flash3_fp8:
            reason = _why_not_right(device, dtype, shape)
        if reason is not None:
            raise TuningError(f"attention {setting} cannot be used: it {reason}.")
        return AttentionChoice(setting, KERNELS[setting])
    if device.type != "cuda":
        return AttentionChoice("sdpa", sdpa)
    return _preferred(device, dtype, shape)


def why_not_sparse(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why sparse attention cannot run here, as the end of a sentence; None if it can.

    On CUDA the kernel is tried; elsewhere plain torch attends.
    """
    if device.type != "cuda":
        return None
    try:
        inputs = _few(device, dtype, head_dim)
        kept = torch.tensor([[[[0, 1], [1, 2], [0, 2]]] * 2], dtype=torch.int32).to(device)
        found = block_sparse_attention(*inputs, kept, _TRIAL_BLOCK)
        torch.cuda.synchronize(device)
    except Exception as error:  # a missing Triton, C compiler or an old driver makes Triton raise any type
        return f"does not run here: {first_line(error)}"
    expected = block_sparse_in_plain_torch(*inputs, kept, _TRIAL_BLOCK)
    return "gives other numbers here" if differs(found, expected) else None


def agree(choice: AttentionChoice, mesh: Mesh) -> AttentionChoice:
    """Return rank 0's choice, on every rank of a group: ranks that measure may come to different ones.

    Raises ``TuningError`` if the kernel that rank 0 chose cannot run here.
    """
    names = list(KERNELS)
    name = names[int(mesh.broadcast(torch.tensor(names.index(choice.name))))]
    if name in choice.ruled_out:
        raise TuningError(f"attention {name}, rank 0's choice, cannot be used: it {choice.ruled_out[name]}.")
    return replace(choice, name=name, kernel=KERNELS[name])


def _why_not_right(device: torch.device, dtype: torch.dtype, shape: AttentionShape) -> str | None:
    """Compare ``flash3_fp8`` with the same in plain torch: a library may take its scales in another way.

    For a ring its logs count too.
    """
    inputs = _few(device, dtype, shape.head_dim)
    if shape.ring == 1:
        wrong = differs(flash3_fp8(*inputs), fp8_in_plain_torch(*inputs), _TOLERANCE_IN_8_BITS)
    else:
        found, logs = WITH_LOGS[flash3_fp8](*inputs)
        expected, expected_logs = WITH_LOGS[fp8_in_plain_torch](*inputs)
        wrong = differs(found, expected, _TOLERANCE_IN_8_BITS) or differs(logs, expected_logs)
    return "gives other numbers here" if wrong else None


def _preferred(device: torch.device, dtype: torch.dtype, shape: AttentionShape) -> AttentionChoice:
    order = _PREFERENCE.get(torch.cuda.get_device_capability(device)[0], _ELSEWHERE)
    candidates = [name for name in order if shape.ring == 1 or KERNELS[name] in WITH_LOGS]
    reasons = {name: why_not(name, device, dtype, shape.head_dim) for name in candidates}
    ruled_out = {name: reason for name, reason in reasons.items() if reason is not None}
    inputs = _noise(device, dtype, (1, shape.heads, min(shape.tokens, _TOKENS), shape.head_dim))
    measured: dict[str, float] = {}
    for name in candidates:
        if name in ruled_out:
            continue
        try:
            if _is_inexact(KERNELS[name], inputs, shape):
                ruled_out[name] = "gives other numbers here"
            else:
                measured[name] = _median_ms(KERNELS[name], inputs)
        except RuntimeError as error:
            ruled_out[name] = f"does not run here: {first_line(error)}"
    if not measured:  # as after a kernel that broke the device
        faults = ", ".join(f"{name} {reason}" for name, reason in ruled_out.items())
        raise TuningError(f"attention auto finds no kernel here: {faults}.")
    chosen = clearly_fastest(measured)
    return AttentionChoice(chosen, KERNELS[chosen], measured, ruled_out)


def clearly_fastest(measured: Mapping[str, float]) -> str:
    """Return the first name, or that of the least time where that is less by more than 5 %.

    ``measured``: times by name, in the order of preference.
    """
    first, fastest = next(iter(measured)), min(measured, key=measured.__getitem__)
    return fastest if _CLEARLY * measured[fastest] < measured[first] else first


def _noise(device: torch.device, dtype: torch.dtype, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, keys and values with a generator of their own: the global random state stays."""
    generator = torch.Generator(device).manual_seed(0)
    queries, keys, values = (
        torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(3)
    )
    return queries, keys, values


def _few(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a trial's queries, keys and values, of two heads: one has keys with much in common."""
    size = (1, 2, _TRIAL_TOKENS, head_dim)
    queries, keys, values = _noise(torch.device("cpu"), torch.float32, size)
    keys[:, 1] += 3.0
    return queries.to(device, dtype), keys.to(device, dtype), values.to(device, dtype)


def _is_inexact(kernel: AttentionKernel, inputs: tuple[Tensor, ...], shape: AttentionShape) -> bool:
    """Return whether a kernel's result differs from sdpa's; for a ring its logs count too."""
    if shape.ring == 1:
        return differs(kernel(*inputs), sdpa(*inputs))
    found, expected = WITH_LOGS[kernel](*inputs), sdpa_with_logs(*inputs)
    return any(differs(one, other) for one, other in zip(found, expected, strict=True))


def differs(attended: Tensor, expected: Tensor, tolerance: float = _TOLERANCE) -> bool:
    """Return whether a kernel's result differs by more than rounding, by default to 16 bits, or has NaNs."""
    difference = float((attended.float() - expected.float()).norm())
    return not difference <= tolerance * float(expected.float().norm())


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
