"""Linear layers in 8-bit floats (fp8): half the memory for weights, and twice the matrix-multiplication rate.

Weights have one scale per row and inputs one scale per token, computed dynamically: there is no calibration,
and an outlier costs precision only in its own row.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import TuningError
from models.kernels.eager import EAGER
from models.kernels.operations import Operations, ScaledRows, Tokens
from models.memory.host_memory import HostCopy
from models.transformer.block import blocks_in_order
from models.transformer.projections import NAMES, joined_projections, replace_joined

_MULTIPLE = 16
"""Divisor that fp8 matrix multiplication requires of both sizes of a weight."""


def check_fp8(device: torch.device, dtype: torch.dtype, setting: str = "fp8") -> None:
    """Raise ``TuningError`` unless ``setting``, which multiplies 8-bit floats, works here: it needs an Ada or
    Hopper device, and bfloat16.
    """
    if device.type != "cuda":
        raise TuningError(
            f"{setting} must be false on a CPU: it needs a CUDA device of compute capability 8.9 or more."
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        raise TuningError(
            f"{setting} must be false on this device: its compute capability is "
            f"{capability[0]}.{capability[1]}, and multiplying 8-bit floats needs 8.9 (Ada) or more."
        )
    if dtype != torch.bfloat16:
        raise TuningError(f"{setting} needs dtype bfloat16, not {str(dtype).removeprefix('torch.')}.")


QUANTISING_BYTES = 8.0
"""Bytes of copies, per value of an input, while it is quantised: in float32, and in float32 clamped."""


class Fp8Linear(nn.Module):
    """A linear layer with weights in float8 e4m3. Bias and result have the dtype of the input."""

    takes_eight_bits = True
    """An input in ``ScaledRows`` is multiplied as it is; one in another dtype is quantised first."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self, linear: nn.Linear, operations: Operations = EAGER, *, keeps_original: bool = False
    ) -> None:
        """Quantise ``linear``. Raises ``TuningError`` if its sizes are no multiples of 16.

        ``operations`` quantise its inputs; ``keeps_original``: keep the weight as it was in the host's
        memory, so that LoRAs can be merged into it.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        if self.in_features % _MULTIPLE or self.out_features % _MULTIPLE:
            raise TuningError(
                f"fp8 must be false for this model: a layer of {self.in_features} by {self.out_features} "
                f"channels has no multiples of {_MULTIPLE}."
            )
        self._operations = operations
        self._dtype = linear.weight.dtype
        whole = linear.weight.detach()
        self._original = HostCopy(whole, whole.device) if keeps_original else None
        weight, scale = EAGER.scaled_rows(whole)
        self.register_buffer("weight", weight)  # [out, in]
        self.register_buffer("scale", scale.t())  # [1, out]
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tokens) -> Tensor:
        """Apply the layer to ``[..., in]``, quantising each token with its own scale if it is not yet."""
        return self.part(x, slice(0, self.out_features))

    def part(self, x: Tokens, outputs: slice) -> Tensor:
        """Compute the outputs of a range alone."""
        values, scale = x if isinstance(x, ScaledRows) else self._operations.scaled_rows(x)
        product: Tensor = torch._scaled_mm(
            values.flatten(0, -2),
            self.weight[outputs].t(),
            scale_a=scale,
            scale_b=self.scale[:, outputs],
            bias=None if self.bias is None else self.bias[outputs],
            out_dtype=self._dtype,
            use_fast_accum=True,
        )
        shaped: Tensor = product.unflatten(0, values.shape[:-1])
        return shaped

    @property
    def merging_place(self) -> "QuantisedRows | None":
        """All rows of the weight, for a LoRA; None where no original is kept."""
        return self.rows(slice(0, self.out_features))

    def rows(self, outputs: slice) -> "QuantisedRows | None":
        """Return the rows of a range of outputs, for a LoRA; None where no original is kept."""
        if self._original is None:
            return None
        return QuantisedRows(self._original.tensor[outputs], self.weight[outputs], self.scale[:, outputs])


@dataclass(frozen=True, slots=True)
class QuantisedRows:
    """Implements ``models.lora.merging.Place``: rows of a quantised weight, ``[n, in]``."""

    original: Tensor
    """The rows in full precision, on the host."""
    values: Tensor
    scale: Tensor

    def write(self, parameter: Tensor) -> None:
        """Quantise rows in full precision, on the weight's device, and put them in place."""
        values, scale = EAGER.scaled_rows(parameter)
        self.values.copy_(values)
        self.scale.copy_(scale.t())


def quantise(transformer: Any, operations: Operations = EAGER, *, keeps_originals: bool = False) -> None:
    """Replace the linear layers of attention and of the feed-forward network in every block, most of a
    model's weights.

    Replaces one layer at a time, so that memory never holds both forms of the whole model. Raises
    ``TuningError`` if a layer's sizes are unsuitable. ``keeps_originals``: see ``Fp8Linear``.
    """
    for block in blocks_in_order(transformer)[0]:
        quantise_block(block, operations, keeps_originals=keeps_originals)


def quantise_block(block: Any, operations: Operations = EAGER, *, keeps_originals: bool = False) -> None:
    """Replace the linear layers of one block, as ``quantise`` does those of all."""
    quantised = partial(Fp8Linear, operations=operations, keeps_original=keeps_originals)
    for attn in (block.attn1, block.attn2):
        joined = joined_projections(attn)
        if joined is not None:
            replace_joined(attn, quantised(joined))
        else:
            for name in NAMES:
                setattr(attn, name, quantised(getattr(attn, name)))
        attn.to_out[0] = quantised(attn.to_out[0])
    block.ffn.net[0].proj = quantised(block.ffn.net[0].proj)
    block.ffn.net[2] = quantised(block.ffn.net[2])


@dataclass(frozen=True, slots=True)
class Closeness:
    """Similarity of a velocity to the expected one."""

    cosine: float
    """Cosine of the angle between them; 1 is the same direction."""
    error: float
    """Relative error: L2 norm of the difference over L2 norm of the expected velocity."""

    def __str__(self) -> str:
        return f"cosine {self.cosine:.5f}, relative error {self.error:.4f}"


def closeness(velocity: Tensor, expected: Tensor) -> Closeness:
    """Compare a velocity with the expected one."""
    velocity, expected = velocity.double().flatten(), expected.double().flatten()
    error = (velocity - expected).norm() / expected.norm()
    return Closeness(float(F.cosine_similarity(velocity, expected, dim=0)), float(error))
