"""What every network has: parameters by the names under which they are stored, and a configuration.

The classes of diffusers and transformers have the same parameters, and much else that serving has no use for:
importing them takes four seconds of processor time, which each replica and each rank would spend.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

import torch
from torch import nn


class Network(nn.Module):
    """A part of a model. Made in ``torch.device("meta")``, it has parameters without memory."""

    config_type: ClassVar[type]
    """Frozen record of the stored configuration: of its fields, those that matter."""
    float32_parts: ClassVar[frozenset[str]] = frozenset()
    """Components of names of parameters that stay in float32, whatever the dtype."""
    float32_parts_beside_float16: ClassVar[frozenset[str]] = frozenset()
    """The same beside float16 alone, whose range is small."""
    other_names: ClassVar[Mapping[str, str]] = {}
    """Names under which a parameter may be stored as well, and its own."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """What the names of tensors begin with that belong to a whole of which this is a part."""

    config: Any

    @classmethod
    def from_config(cls, stored: Mapping[str, Any]) -> Self:
        """Make the network of a stored configuration, which may leave out what is usual."""
        known = {field.name for field in fields(cls.config_type)}
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stored.items()
            if name in known
        }
        return cls(cls.config_type(**values))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters that are not kept in float32."""
        return next(
            parameter.dtype
            for name, parameter in self.named_parameters()
            if self.float32_parts.isdisjoint(name.split("."))
        )


def embedding(rows: int, dim: int) -> nn.Embedding:
    """Make an embedding whose numbers are to be loaded: on the meta device, random ones import a compiler."""
    made: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, dim), freeze=False)
    return made
