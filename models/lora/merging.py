"""LoRAs merged into a transformer's parameters in place, and taken out again to the very same bits."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from models.lora.file import Lora
from models.lora.originals import Originals, Room
from models.weights.arrival import Arrival

Weighted: TypeAlias = tuple[Lora, float]
"""A LoRA and the strength it acts with."""


class Place(Protocol):
    """Where a parameter lies in the model, in a form of its own such as 8-bit floats with scales."""

    @property
    def original(self) -> Tensor:
        """The parameter as it was loaded, kept by the layer itself."""

    def write(self, parameter: Tensor) -> None:
        """Put a parameter there, in the layer's form. The original's bits give the bits of before."""


class MergedParameters:
    """The parameters of a transformer that LoRAs have changed, with their originals.

    Weights are written where they lie, so that views of them, and graphs compiled with them as inputs, stay
    valid.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        """``device``: where the work is done; weights may wait elsewhere."""
        self._model = model
        self._device = device
        self._changed: set[str] = set()
        self.originals = Originals(device)

    def put_on(self, loras: Mapping[str, Sequence[Weighted]], room: Room) -> None:
        """Merge these LoRAs, by the parameters they change, in place of those that were merged.

        Raises ``OutOfMemory`` if there is no room for originals. What an error leaves half done, the next
        call puts right.
        """
        for name in self._changed - loras.keys():
            room.bytes += self._restore(name)
        self.originals.make_room(room)
        for name, changes in loras.items():
            self._merge(name, changes, room)

    def _merge(self, name: str, loras: Sequence[Weighted], room: Room) -> None:
        place = self._place(name)
        if place is not None:
            self._changed.add(name)
            place.write(self._merged(name, place.original, loras))
            return
        parameter, original = self._parameter(name), self.originals.find(name)
        if original is None:
            original = self.originals.keep(name, parameter, room)
        self._changed.add(name)
        is_there = parameter.device.type == self._device.type
        if is_there and parameter.dtype == torch.float32 and parameter.is_contiguous():
            add_loras(name, parameter.copy_(original), loras)
        else:
            parameter.copy_(self._merged(name, original, loras))

    def _merged(self, name: str, original: Tensor, loras: Sequence[Weighted]) -> Tensor:
        # to the device before it is widened: a host would do that slowly
        return with_loras(name, original.to(self._device), loras)

    def _restore(self, name: str) -> int:
        """Give a parameter its original back; return the bytes that the device has back."""
        place = self._place(name)
        if place is not None:
            place.write(place.original.to(self._device))
        else:
            original = self.originals.find(name)
            assert original is not None
            self._parameter(name).copy_(original)
        self._changed.remove(name)
        return self.originals.leave(name)

    def _place(self, name: str) -> Place | None:
        """Return the place of a weight in a form of its own; None where the parameter is a plain tensor."""
        module, _, last = name.rpartition(".")
        place: Place | None = getattr(self._model.get_submodule(module), "merging_place", None)
        return place if last == "weight" else None

    def _parameter(self, name: str) -> Tensor:
        module, _, last = name.rpartition(".")
        parameter: Tensor = getattr(self._model.get_submodule(module), last)
        return parameter.detach()  # shares the memory


def fuse(lora: Lora, strength: float, arrival: Arrival) -> None:
    """Have a LoRA that was read for a model added to its weights when they arrive, each rounded once."""
    for name in lora.parameters:
        arrival.add_change(name, partial(with_loras, name, loras=[(lora, strength)]))


def with_loras(name: str, parameter: Tensor, loras: Sequence[Weighted]) -> Tensor:
    """Return a parameter with LoRAs added, in its own dtype: rounded once."""
    total = parameter.to(torch.float32, copy=True).contiguous()
    add_loras(name, total, loras)
    return total.to(parameter.dtype)


def add_loras(name: str, total: Tensor, loras: Sequence[Weighted]) -> None:
    """Add to a parameter, float32 and contiguous, what LoRAs change of it, in place.

    In float32, since a factor in the weight's 16 bits would add an error of its own; the sum is rounded once,
    at the end.
    """
    for lora, strength in loras:
        if name in lora.products:
            product = lora.products[name]
            up, down = (part.to(total.device, torch.float32) for part in (product.up, product.down))
            total.view(total.shape[0], -1).addmm_(up, down, alpha=strength * product.scale)
        if name in lora.differences:
            total.add_(lora.differences[name].to(total.device, torch.float32), alpha=strength)
