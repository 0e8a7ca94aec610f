"""Self-attention kernels behind one call signature, and the check whether a kernel can run here.

Shapes: queries, keys and values ``[batch, heads, n, head_dim]``; every kernel scales by 1/√head_dim and has
no mask. A kernel's library is imported only when that kernel is first checked or called.

Ring attention merges parts by the log-sum-exp of each query's scores, so it takes a kernel of ``WITH_LOGS``,
which returns that as well, float32 ``[batch, heads, n]``; in 8 bits one of ``OF_8_BITS``.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module, metadata
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.errors import first_line
from models.kernels.scaled_heads import ScaledHeads, scaled_heads, scaled_heads_in_plain_torch

_HALF = (torch.bfloat16, torch.float16)


class AttentionKernel(Protocol):
    """Attention of every query to every key."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend. Inputs are ``[batch, heads, tokens, head_dim]``; the result is shaped as the queries."""


class LogsKernel(Protocol):
    """Attention of every query to every key, with the log-sum-exp of each query's scores."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attend; return the result, shaped as the queries, and the logs, float32 ``[batch, heads, n]``."""


class ScaledLogsKernel(Protocol):
    """The same of what is in 8 bits already."""

    def __call__(self, queries: ScaledHeads, keys: ScaledHeads, values: ScaledHeads) -> tuple[Tensor, Tensor]:
        """Attend; return the result, of a dtype of its own, and the logs."""


def sdpa(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with torch's ``scaled_dot_product_attention``, which chooses among torch's built-in kernels."""
    return F.scaled_dot_product_attention(queries, keys, values)


def sdpa_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend with the kernels behind torch's public attention, which does not return the logs."""
    aten = torch.ops.aten
    if queries.device.type == "cpu":
        attended, logs = aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values)
    elif queries.dtype == torch.float32:
        attended, logs, *_ = aten._scaled_dot_product_efficient_attention(queries, keys, values, None, True)
        logs = logs[..., : queries.shape[2]]  # the kernel pads the queries to a multiple of 32
    else:
        attended, logs, *_ = aten._scaled_dot_product_flash_attention(queries, keys, values)
    return attended, logs


def cudnn(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with cuDNN's kernel."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(queries, keys, values)


def cudnn_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend with cuDNN's kernel, which keeps a last dimension of 1 on the logs."""
    cudnn_attention = torch.ops.aten._scaled_dot_product_cudnn_attention
    attended, logs, *_ = cudnn_attention(queries, keys, values, None, True)
    return attended, logs.reshape(queries.shape[:3])


def flash2(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with FlashAttention 2."""
    return _by_tokens(library("flash2").flash_attn_func, queries, keys, values)[0]


def flash2_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend with FlashAttention 2, which returns a third tensor as well."""
    return _with_logs("flash2", queries, keys, values)


def flash3(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with FlashAttention 3, on Hopper."""
    return _by_tokens(library("flash3").flash_attn_func, queries, keys, values)[0]


def flash3_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend with FlashAttention 3, on Hopper."""
    return _with_logs("flash3", queries, keys, values)


def flash3_fp8(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend in 8 bits with FlashAttention 3, on Hopper; the keys are centred."""
    scaled = scaled_heads(queries), scaled_heads(keys, centred=True), scaled_heads(values)
    return _of_8_bits(*scaled)[0].to(queries.dtype)


def flash3_of_8_bits(queries: ScaledHeads, keys: ScaledHeads, values: ScaledHeads) -> tuple[Tensor, Tensor]:
    """Attend with FlashAttention 3 to keys that a ring has centred: were each part by itself, logs would not
    compare.
    """
    attended, logs, *_ = _of_8_bits(queries, keys, values, return_attn_probs=True)
    return attended, logs


def flash3_fp8_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend in 8 bits to keys that are not centred here."""
    return flash3_of_8_bits(scaled_heads(queries), scaled_heads(keys), scaled_heads(values))


def fp8_in_plain_torch(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend in float32 to what ``flash3_fp8`` quantises, which rounds the softmax's weights as well."""
    quantise = scaled_heads_in_plain_torch
    scaled = quantise(queries), quantise(keys, centred=True), quantise(values)
    return sdpa(*map(_exact, scaled)).to(queries.dtype)


def plain_torch_of_8_bits(
    queries: ScaledHeads, keys: ScaledHeads, values: ScaledHeads
) -> tuple[Tensor, Tensor]:
    """The same of ``flash3_of_8_bits``."""
    return sdpa_with_logs(_exact(queries), _exact(keys), _exact(values))


def fp8_in_plain_torch_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The same of ``flash3_fp8_with_logs``."""
    quantise = scaled_heads_in_plain_torch
    return plain_torch_of_8_bits(quantise(queries), quantise(keys), quantise(values))


def sage(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend in 8 bits with SageAttention."""
    attended: Tensor = library("sage").sageattn(queries, keys, values, tensor_layout="HND")
    return attended


def xformers(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with xFormers' kernel."""
    return _by_tokens(library("xformers").memory_efficient_attention, queries, keys, values)[0]


def _of_8_bits(
    queries: ScaledHeads, keys: ScaledHeads, values: ScaledHeads, **options: bool
) -> tuple[Tensor, ...]:
    scales = {"q_descale": queries.scale, "k_descale": keys.scale, "v_descale": values.scale}
    attend = partial(library("flash3_fp8").flash_attn_func, **scales, **options)
    return _by_tokens(attend, queries.values, keys.values, values.values)


def _exact(heads: ScaledHeads) -> Tensor:
    """Return what 8 bits leave of queries, keys or values, in float32."""
    return heads.values.float() * heads.scale[:, :, None, None]


def _with_logs(name: str, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    attend = partial(library(name).flash_attn_func, return_attn_probs=True)
    attended, logs, *_ = _by_tokens(attend, queries, keys, values)
    return attended, logs


def _by_tokens(attend: Callable[..., Any], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Call a library that takes tokens before heads, ``[batch, n, heads, head_dim]``; return all it
    returns.
    """
    answer = attend(*(tensor.transpose(1, 2) for tensor in tensors))
    # some versions of FlashAttention 3 return the logs unasked
    attended, *others = answer if isinstance(answer, tuple) else (answer,)
    return attended.transpose(1, 2), *others


KERNELS: Mapping[str, AttentionKernel] = MappingProxyType(
    {
        "sdpa": sdpa,
        "cudnn": cudnn,
        "flash2": flash2,
        "flash3": flash3,
        "flash3_fp8": flash3_fp8,
        "sage": sage,
        "xformers": xformers,
    }
)

WITH_LOGS: Mapping[AttentionKernel, LogsKernel] = MappingProxyType(
    {
        sdpa: sdpa_with_logs,
        cudnn: cudnn_with_logs,
        flash2: flash2_with_logs,
        flash3: flash3_with_logs,
        flash3_fp8: flash3_fp8_with_logs,
        fp8_in_plain_torch: fp8_in_plain_torch_with_logs,
    }
)
"""The kernels that can serve a ring, by the same kernels without logs."""

OF_8_BITS: Mapping[AttentionKernel, ScaledLogsKernel] = MappingProxyType(
    {flash3_fp8: flash3_of_8_bits, fp8_in_plain_torch: plain_torch_of_8_bits}
)
"""Those of them that a ring quantises for, each part once, before it travels."""

LOSSY = frozenset({"flash3_fp8", "sage"})
"""Kernels that compute in lower precision than the model's own dtype."""

_FLASH3 = ("flash_attn_interface", "fa3_fwd_interface")
_LIBRARIES = {
    "flash2": ("flash_attn",),
    "flash3": _FLASH3,
    "flash3_fp8": _FLASH3,
    "sage": ("sageattention",),
    "xformers": ("xformers.ops",),
}
"""Modules of each kernel's library, of which the first that is there is used. FlashAttention 3 is built from
source, or installed as the package fa3-fwd.
"""
_SAGE_FOR_HOPPER = 2
"""First major version of SageAttention with a kernel for Hopper."""
_CAPABILITIES = {"cudnn": (8, 0), "flash2": (8, 0), "sage": (8, 0), "xformers": (7, 0)}
"""Lowest CUDA compute capability each kernel supports."""
_MAX_HEAD_DIM = {"cudnn": 128, "flash2": 256, "flash3": 256, "flash3_fp8": 256, "sage": 128, "xformers": 256}
_MULTIPLES = {"flash3_fp8": 16}
"""What the channels of a head must be a multiple of: 16 bytes; where nothing else is said, 8 channels."""


def why_not(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why a kernel cannot run here, as the end of a sentence; None if it can."""
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return "needs a CUDA device"
    if dtype not in _HALF:
        return f"needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    capability = torch.cuda.get_device_capability(device)
    if _LIBRARIES.get(name) is _FLASH3:
        if capability[0] != 9:
            return (
                f"is made for Hopper devices (compute capability 9.0), and this one has {_dotted(capability)}"
            )
    elif capability < _CAPABILITIES[name]:
        return f"needs compute capability {_dotted(_CAPABILITIES[name])}, not {_dotted(capability)}"
    most, multiple = _MAX_HEAD_DIM[name], _MULTIPLES.get(name, 8)
    if head_dim > most or head_dim % multiple:
        return f"takes heads of up to {most} channels in multiples of {multiple}, not of {head_dim}"
    return (
        _why_not_installed(name)
        or _why_not_worthwhile(name, capability)
        or _why_not_running(name, device, dtype, head_dim)
    )


@cache
def library(name: str) -> Any:
    """Import the library of a kernel. Raises ``ModuleNotFoundError``, or any error of a broken library."""
    missing = []
    for module in _LIBRARIES[name]:
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            missing.append(str(error.name))
    raise ModuleNotFoundError(f"there is no module {' or '.join(missing)}")


def _why_not_installed(name: str) -> str | None:
    if name not in _LIBRARIES:
        return None
    try:
        library(name)
    except ModuleNotFoundError as error:
        return f"is not installed ({error})"
    except Exception as error:  # an extension built for another torch version can raise any type
        return f"does not load: {first_line(error)}"
    return None


def _why_not_worthwhile(name: str, capability: tuple[int, int]) -> str | None:
    if name != "sage" or capability[0] != 9:
        return None
    try:
        version = metadata.version("sageattention")
    except metadata.PackageNotFoundError:  # on the path, but not installed as a package
        return None
    if int(version.partition(".")[0]) >= _SAGE_FOR_HOPPER:
        return None
    return (
        f"has no kernel for Hopper in version {version}, where it is slower than exact attention: "
        f"version {_SAGE_FOR_HOPPER} has, built from source"
    )


def _why_not_running(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Try a small call: a library that imports may still lack code for this device."""
    try:  # the tensor too: on a device that another process fills, it is what fails
        tiny = torch.zeros(1, 1, 64, head_dim, device=device, dtype=dtype)
        KERNELS[name](tiny, tiny, tiny)
        torch.cuda.synchronize(device)
    except Exception as error:
        return f"does not run here: {first_line(error)}"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
