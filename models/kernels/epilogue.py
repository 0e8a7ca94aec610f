"""GELU as the epilogue of a matrix product: the widest tensor of a block is written once, and not read and
written once more.

torch reaches cuBLASLt's epilogue by ``torch._addmm_activation``. On CUDA its GELU is the tanh approximation,
which Wan's is; elsewhere it is the exact one, so it is called for CUDA tensors alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.fused import FusedOperations
from models.kernels.operations import Tokens

_HOPPER = 9
"""Major compute capability of H100 and H200. On Blackwell's smaller GPUs the epilogue was seen to be slower
than two kernels (sgl-project/sglang pull request 34350), and elsewhere it has not been tried.
"""
_WORSE = 1.1
"""How much further from the exact result than with two kernels it may be."""
_TRIED_TOKENS = _TRIED_ROWS = 64


class EpilogueOperations(FusedOperations):
    """The fused operations, with GELU in the product before it where the layer is a plain one."""

    def linear_gelu(self, linear: nn.Module, x: Tokens, *, eight_bits: bool = False) -> Tokens:
        """Apply a layer and GELU after it, in one kernel unless the result is to be quantised."""
        if eight_bits or type(linear) is not nn.Linear or not isinstance(x, Tensor) or not x.is_cuda:
            return super().linear_gelu(linear, x, eight_bits=eight_bits)
        return product_with_gelu(linear, x)


EPILOGUE = EpilogueOperations()


def product_with_gelu(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return ``GELU(linear(x))`` for a layer with a bias, by one product."""
    rows = x.flatten(0, -2)
    product: Tensor = torch._addmm_activation(linear.bias, rows, linear.weight.t(), use_gelu=True)
    widened: Tensor = product.unflatten(0, x.shape[:-1])
    return widened


def epilogue_serves(device: torch.device, dtype: torch.dtype, inputs: int, outputs: int) -> bool:
    """Return whether the epilogue is of use on a device, and its numbers as near the exact ones as those of
    two kernels.
    """
    if dtype == torch.float32 or torch.cuda.get_device_capability(device)[0] != _HOPPER:
        return False
    try:
        return _is_near(device, dtype, inputs, outputs)
    except Exception:  # the name is private: another torch may take other arguments
        return False


@torch.inference_mode()
def _is_near(device: torch.device, dtype: torch.dtype, inputs: int, outputs: int) -> bool:
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    linear = nn.Linear(inputs, outputs, device="meta")
    # a few rows again and again: as many numbers as a layer's take half a second to draw
    weight = (noise(_TRIED_ROWS, inputs) / inputs**0.5).repeat(-(-outputs // _TRIED_ROWS), 1)[:outputs]
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(noise(outputs), requires_grad=False)
    x = noise(_TRIED_TOKENS, inputs)
    exact = F.gelu(F.linear(x.float(), linear.weight.float(), linear.bias.float()), approximate="tanh")
    errors = [
        float((found.float() - exact).norm())
        for found in (product_with_gelu(linear, x), F.gelu(linear(x), approximate="tanh"))
    ]
    return errors[0] <= _WORSE * errors[1]
