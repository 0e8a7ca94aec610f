"""Attention of one head among the pixels of a picture, by torch's kernel or by two products and a softmax."""

import logging
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import first_line
from models.kernels.choice import differ

_LOGGER = logging.getLogger(__name__)

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Called with queries, keys and values ``[t, n, channels]``; pictures attend each by itself."""

WIDEST_FLASH_HEAD = 256
"""Channels up to which FlashAttention takes a head. Beyond them torch has a kernel that is several times as
slow as products.
"""
_TRIED_PIXELS = 64


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend by torch's own kernel."""
    attended: Tensor = F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])
    return attended[:, 0]


def attend_by_products(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend by two products and a softmax, a picture at a time; the scores are float32."""
    return torch.stack([_attended(*picture) for picture in zip(queries, keys, values, strict=True)])


def _attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return torch.softmax(_scores(queries, keys), dim=-1).to(values.dtype) @ values


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Return float32 scores ``[n, n]`` of one picture."""
    scale, nothing = queries.shape[-1] ** -0.5, queries.new_empty((), dtype=torch.float32)
    if not queries.is_cuda:  # its products have the dtype of their operands
        queries, keys = queries.float(), keys.float()
    if queries.dtype == torch.float32:
        return torch.addmm(nothing, queries, keys.mT, beta=0, alpha=scale)
    return torch.addmm(nothing, queries, keys.mT, beta=0, alpha=scale, out_dtype=torch.float32)


def choose_attention(device: torch.device, dtype: torch.dtype, channels: int) -> Attend:
    """Choose how to attend on a device: by products where the head is wide and a trial of them succeeds."""
    if device.type != "cuda" or channels <= WIDEST_FLASH_HEAD:
        return attend
    try:
        queries, keys, values = torch.randn(3, 1, _TRIED_PIXELS, channels, device=device, dtype=dtype)
        with torch.inference_mode():
            found, expected = attend_by_products(queries, keys, values), attend(queries, keys, values)
        reason = "it gives other numbers here" if differ(found.float(), expected.float()) else None
    except Exception as error:  # an older torch, a library that lacks the product
        reason = first_line(error)
    if reason is None:
        return attend_by_products
    _LOGGER.info("VAE: attention by torch's kernel, not by products: %s", reason)
    return attend
