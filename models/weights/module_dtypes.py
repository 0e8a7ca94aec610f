"""Dtypes of a module's parameters, by the rules of diffusers and transformers."""

from typing import Any

import torch
from diffusers import ModelMixin


class ModuleDtypes:
    """The dtype of each parameter of a module that is loaded in one dtype, some parts of it in float32."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """``model``: one of diffusers or of transformers. Its own dtypes do not count."""
        self._dtype = dtype
        kept = set(model._keep_in_fp32_modules or ())
        # transformers means it for float16 alone, whose range is small
        applies = isinstance(model, ModelMixin) or dtype == torch.float16
        self._in_float32 = kept if applies else set()

    def of(self, name: str) -> torch.dtype:
        """Return the dtype of a parameter, named from the module or from a part of it."""
        return self._dtype if self._in_float32.isdisjoint(name.split(".")) else torch.float32
