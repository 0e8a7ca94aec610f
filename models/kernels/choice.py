"""Choice of the fused operations: Triton's kernels on a CUDA device where they work, else plain torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from models.errors import first_line
from models.kernels.eager import EAGER
from models.kernels.epilogue import EPILOGUE, epilogue_serves
from models.kernels.fused import FUSED
from models.kernels.operations import Modulation, Operations, ScaledRows, Tokens

_TOLERANCE = 0.02
"""Largest relative difference (L2 norm) from the eager operations: a rounding to 16 bits here and there, or a
few that fell the other way in 8 bits.
"""
_TOKENS = 3


@dataclass(frozen=True, slots=True)
class OperationsWidth:
    """Sizes of a model that kernels are made for."""

    heads: int
    head_dim: int
    ffn_dim: int

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class OperationsChoice:
    """The chosen operations, and why not the fused ones, for the log."""

    operations: Operations
    ruled_out: str | None = None
    """Why the fused ones cannot be used, as the end of a sentence; None where they are."""

    def __str__(self) -> str:
        if self.ruled_out is None:
            gelu = ", GELU in the product before it" if self.operations is EPILOGUE else ""
            return f"operations between matrix products by fused Triton kernels{gelu}"
        return f"operations between matrix products by plain torch (fused kernels: {self.ruled_out})"


def choose_operations(
    device: torch.device, dtype: torch.dtype, width: OperationsWidth, *, eight_bits: bool = False
) -> OperationsChoice:
    """Choose the operations for a device: a trial of each kernel at the model's width decides on CUDA.

    The trial also compiles them, so that no run waits for that. ``eight_bits``: whether those with 8-bit
    results are needed.
    """
    reason = reason_against(
        device, lambda: first_difference(FUSED, device, dtype, width, eight_bits=eight_bits)
    )
    if reason is not None:
        return OperationsChoice(EAGER, reason)
    in_product = not eight_bits and epilogue_serves(device, dtype, width.dim, width.ffn_dim)
    return OperationsChoice(EPILOGUE if in_product else FUSED)


def reason_against(device: torch.device, first_difference: Callable[[], str | None]) -> str | None:
    """Return why fused kernels cannot be used on a device, as the end of a sentence; None where they can.

    ``first_difference``: tries them, and returns the name of one that differs from plain torch.
    """
    if device.type != "cuda":
        return "they need a CUDA device"
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        differing = first_difference()
        torch.cuda.synchronize(device)
    except Exception as error:  # a missing C compiler or an old driver makes Triton raise any type
        return f"they do not run here: {first_line(error)}"
    return None if differing is None else f"{differing} gives other numbers here"


def first_difference(
    operations: Operations,
    device: torch.device,
    dtype: torch.dtype,
    width: OperationsWidth,
    *,
    eight_bits: bool,
) -> str | None:
    """Return the name of the first operation that differs from the eager one by more than rounding."""
    found = _trial(operations, device, dtype, width, eight_bits)
    expected = _trial(EAGER, device, dtype, width, eight_bits)
    for (name, result), (_, wanted) in zip(found, expected, strict=True):
        if differ(result, wanted):
            return name
    return None


def differ(result: Tensor, wanted: Tensor) -> bool:
    """Return whether a kernel's result differs from plain torch's by more than rounding."""
    return not float((result - wanted).norm()) <= _TOLERANCE * float(wanted.norm())  # NaNs differ, too


@torch.inference_mode()
def _trial(
    operations: Operations, device: torch.device, dtype: torch.dtype, width: OperationsWidth, eight_bits: bool
) -> Iterator[tuple[str, Tensor]]:
    """Run every form of the operations that a block uses on the same inputs; yield float32 results."""
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    dim = width.dim
    x, update = (noise(1, 1, _TOKENS, dim, dtype=dtype) for _ in range(2))
    gate, shift, scale = noise(1, 3, dim).chunk(3, dim=1)
    plain = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
    affine = nn.LayerNorm(dim, eps=1e-6, device=device)
    norms = [nn.RMSNorm(dim, eps=1e-6, device=device, dtype=dtype) for _ in range(2)]
    modulation = Modulation(shift, scale)
    yield "residual", operations.residual(x, update, gate).float()
    for bits in dict.fromkeys((False, eight_bits)):
        normed = operations.layer_norm(plain, x, modulation, eight_bits=bits)
        yield "layer_norm", _whole(normed)
        for norm, gated, modulated in ((affine, gate, None), (plain, None, modulation)):
            summed, normed = operations.residual_layer_norm(
                x, update, gated, norm, modulated, eight_bits=bits
            )
            yield "residual_layer_norm", summed.float()
            yield "residual_layer_norm", _whole(normed)
        yield "gelu", _whole(operations.gelu(noise(1, _TOKENS, width.ffn_dim, dtype=dtype), eight_bits=bits))
    if eight_bits:
        yield "scaled_rows", _whole(operations.scaled_rows(x))
    rotation = noise(1, 1, _TOKENS, width.head_dim)
    for parts in (1, 2):
        product = noise(1, _TOKENS, 3, dim, dtype=dtype)[:, :, :parts]
        for turned in operations.rms_norm_rotate(product, norms[:parts], rotation, width.heads):
            yield "rms_norm_rotate", turned.float()


def _whole(tokens: Tokens) -> Tensor:
    if isinstance(tokens, ScaledRows):
        return tokens.values.float() * tokens.scale.view(*tokens.values.shape[:-1], 1)
    return tokens.float()
