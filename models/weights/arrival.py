"""What becomes of a transformer's parameters as they arrive, from the files that they wait in, where they are
computed with.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from models.networks.transformer import WanTransformer
from models.weights.carrier import Carrier
from models.weights.module_dtypes import ModuleDtypes

Change: TypeAlias = Callable[[Tensor], Tensor]
"""What makes of a parameter on the device another one of the same shape and dtype."""


@dataclass(slots=True)
class _Awaited:
    parameter: Tensor
    dtype: torch.dtype
    scale: Tensor | None
    changes: list[Change] = field(default_factory=list)


class Arrival:
    """The parameters of a transformer that was just loaded, which may still be as its files hold them.

    Each arrives once, on the device: cast, or multiplied by the scale of its 8-bit floats, and then changed
    as by LoRAs that are made part of the weights. So the host holds, beside the files, what shall rest there.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        carrier: Carrier,
        scales: Mapping[str, Tensor] | None = None,
    ) -> None:
        """``carrier``: to the device that computes; ``scales``: by their names, of the parameters that are
        still in 8 bits.
        """
        dtypes, scales = ModuleDtypes(WanTransformer, dtype), scales or {}
        self.model = model
        self.device = carrier.device
        self._carrier = carrier
        self._joined: dict[int, list[Tensor]] = {}
        """Parameters that a joined one is made of, by its id."""
        self._awaited = {
            id(parameter): _Awaited(parameter, dtypes.of(name), scales.get(name))
            for name, parameter in model.named_parameters()
        }

    def join(self, parameters: Sequence[Tensor]) -> nn.Parameter:
        """Return a parameter whose rows are those of others, one below the other: to be laid like them, and
        without memory until then.
        """
        first, rows = parameters[0], sum(len(parameter) for parameter in parameters)
        nothing = torch.empty(1, dtype=self.dtype_of(first)).expand(rows, *first.shape[1:])
        joined = nn.Parameter(nothing, requires_grad=False)
        self._joined[id(joined)] = list(parameters)
        return joined

    def dtype_of(self, tensor: Tensor) -> torch.dtype:
        """Return the dtype in which a tensor of the model is computed with."""
        awaited = self._awaited.get(id(tensor))
        return tensor.dtype if awaited is None else awaited.dtype

    def add_change(self, name: str, change: Change) -> None:
        """Change a parameter when it arrives, after what was added before."""
        self._awaited[id(self.model.get_parameter(name))].changes.append(change)

    def bring(self, tensors: Iterable[Tensor]) -> None:
        """Bring tensors of the model to the device in place, where they are not there."""
        with torch.inference_mode(False):  # a parameter cannot hold an inference tensor
            for tensor in tensors:
                tensor.data = self._arrived(tensor)

    def lay(self, tensor: Tensor, place: Tensor) -> None:
        """Put a tensor of the model in a place in the host's memory, in the dtype of the place.

        It passes through the device only if there is more to be done to it than a cast.
        """
        if (parts := self._joined.pop(id(tensor), None)) is not None:
            for part, rows in zip(parts, place.split([len(part) for part in parts]), strict=True):
                self.lay(part, rows)
            return
        awaited = self._awaited.get(id(tensor))
        if awaited is None or (awaited.scale is None and not awaited.changes):
            self._awaited.pop(id(tensor), None)
            place.copy_(tensor.data)
        else:
            place.copy_(self._arrived(tensor))

    @torch.no_grad()
    def _arrived(self, tensor: Tensor) -> Tensor:
        awaited = self._awaited.pop(id(tensor), None)
        if awaited is None:
            return tensor.data.to(self.device)
        if awaited.scale is None:
            arrived = self._carrier.carry(tensor.data, awaited.dtype)
        else:
            arrived = scaled(self._carrier.carry(tensor.data, tensor.dtype), awaited.scale, awaited.dtype)
        for change in awaited.changes:
            arrived = change(arrived)
        return arrived


def scaled(eight_bits: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 8-bit floats multiplied by their scale, one for the tensor or one for each of its rows."""
    scale = scale.to(eight_bits.device, torch.float32)
    return (eight_bits.float() * scale.reshape(-1, *[1] * (eight_bits.ndim - 1))).to(dtype)
