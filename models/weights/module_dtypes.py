"""Dtypes of a network's parameters."""

import torch

from models.networks.network import Network


class ModuleDtypes:
    """The dtype of each parameter of a network that is loaded in one dtype, some parts of it in float32."""

    def __init__(self, network: type[Network], dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._in_float32 = network.float32_parts
        if dtype == torch.float16:
            self._in_float32 |= network.float32_parts_beside_float16

    def of(self, name: str) -> torch.dtype:
        """Return the dtype of a parameter, named from the network or from a part of it."""
        return self._dtype if self._in_float32.isdisjoint(name.split(".")) else torch.float32
