"""Self-attention kernels behind one call signature, and the check whether a kernel can run here.

Shapes: queries, keys and values ``[batch, heads, n, head_dim]``; every kernel scales by 1/√head_dim and has
no mask. A kernel's library is imported only when that kernel is first checked or called.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.errors import first_line

_HALF = (torch.bfloat16, torch.float16)


class AttentionKernel(Protocol):
    """Attention of every query to every key."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend. Inputs are ``[batch, heads, tokens, head_dim]``; the result is shaped as the queries."""


def sdpa(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with torch's ``scaled_dot_product_attention``, which chooses among torch's built-in kernels."""
    return F.scaled_dot_product_attention(queries, keys, values)


def cudnn(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with cuDNN's kernel."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(queries, keys, values)


def flash2(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with FlashAttention 2."""
    attend = import_module("flash_attn").flash_attn_func
    return _by_tokens(attend, queries, keys, values)


def flash3(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with FlashAttention 3, on Hopper."""
    attend = import_module("flash_attn_interface").flash_attn_func
    return _by_tokens(attend, queries, keys, values)


def sage(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend in 8 bits with SageAttention."""
    attended: Tensor = import_module("sageattention").sageattn(queries, keys, values, tensor_layout="HND")
    return attended


def xformers(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with xFormers' kernel."""
    attend = import_module("xformers.ops").memory_efficient_attention
    return _by_tokens(attend, queries, keys, values)


def _by_tokens(attend: Callable[..., Any], *tensors: Tensor) -> Tensor:
    """Call a library that takes tokens before heads, ``[batch, n, heads, head_dim]``."""
    answer = attend(*(tensor.transpose(1, 2) for tensor in tensors))
    # some versions of FlashAttention 3 also return the log-sum-exp of the scores
    attended: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return attended.transpose(1, 2)


KERNELS: Mapping[str, AttentionKernel] = MappingProxyType(
    {
        "sdpa": sdpa,
        "cudnn": cudnn,
        "flash2": flash2,
        "flash3": flash3,
        "sage": sage,
        "xformers": xformers,
    }
)

LOSSY = frozenset({"sage"})
"""Kernels that compute in lower precision than the model's own dtype."""

_LIBRARIES = {
    "flash2": "flash_attn",
    "flash3": "flash_attn_interface",
    "sage": "sageattention",
    "xformers": "xformers.ops",
}
_CAPABILITIES = {"cudnn": (8, 0), "flash2": (8, 0), "sage": (8, 0), "xformers": (7, 0)}
"""Lowest CUDA compute capability each kernel supports."""
_MAX_HEAD_DIM = {"cudnn": 128, "flash2": 256, "flash3": 256, "sage": 128, "xformers": 256}


def why_not(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why a kernel cannot run here, as the end of a sentence; None if it can."""
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    if dtype not in _HALF:
        return f"needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    capability = torch.cuda.get_device_capability(device)
    if name == "flash3":
        if capability[0] != 9:
            return (
                f"is made for Hopper devices (compute capability 9.0), and this one has {_dotted(capability)}"
            )
    elif capability < _CAPABILITIES[name]:
        return f"needs compute capability {_dotted(_CAPABILITIES[name])}, not {_dotted(capability)}"
    if head_dim > _MAX_HEAD_DIM[name] or head_dim % 8:
        return f"takes heads of up to {_MAX_HEAD_DIM[name]} channels in eights, not of {head_dim}"
    return _why_not_installed(name) or _why_not_running(name, device, dtype, head_dim)


def _why_not_installed(name: str) -> str | None:
    if name not in _LIBRARIES:
        return None
    library = _LIBRARIES[name]
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        return f"is not installed (there is no module {error.name})"
    except Exception as error:  # an extension built for another torch version can raise any type
        return f"does not load: {first_line(error)}"
    return None


def _why_not_running(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Try a small call: a library that imports may still lack code for this device."""
    tiny = torch.zeros(1, 1, 64, head_dim, device=device, dtype=dtype)
    try:
        KERNELS[name](tiny, tiny, tiny)
        torch.cuda.synchronize(device)
    except Exception as error:
        return f"does not run here: {first_line(error)}"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
