"""LoRAs on a loaded transformer: put on and taken off between runs, or added to the weights once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.lora.beside import AdaptedLayers
from models.lora.file import Lora, LowRank
from models.lora.merging import MergedParameters, Weighted
from models.lora.originals import Originals, Room
from models.weights.arrival import Arrival

_KEPT = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes in which a LoRA's numbers stay as they are until they are merged."""


class Adapters:
    """The parameters of a transformer as it was loaded, and the LoRAs that are on it.

    To be made before layers are replaced by others of the same use. LoRAs are merged into the weights, which
    costs nothing in a run. Where there is no memory for the originals, those of linear layers stay beside the
    layers instead; what is no linear layer has few numbers, and is merged in any case.
    """

    def __init__(self, arrival: Arrival, *, merges: bool = True) -> None:
        """``merges``: false puts LoRAs beside linear layers."""
        transformer, device = arrival.model, arrival.device
        self._device = device
        self._merges = merges
        self._shapes = {name: tuple(value.shape) for name, value in transformer.named_parameters()}
        self._dtypes = {name: arrival.dtype_of(value) for name, value in transformer.named_parameters()}
        self._linears = {
            name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)
        }
        self._merged = MergedParameters(transformer, device)
        self._beside = AdaptedLayers(transformer)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the parameters that a LoRA may change, by name."""
        return self._shapes

    @property
    def originals(self) -> Originals:
        """The parameters that are changed now, as they were loaded."""
        return self._merged.originals

    def fitted(self, lora: Lora) -> Lora:
        """Return a LoRA that was read for ``shapes`` on the device, in the dtypes that it is used in."""

        def part(name: str, tensor: Tensor) -> Tensor:
            keeps = tensor.dtype in _KEPT and not self._is_beside(name)
            return tensor.to(self._device, tensor.dtype if keeps else self._dtypes[name])

        products = {
            name: LowRank(part(name, product.down), part(name, product.up), product.scale)
            for name, product in lora.products.items()
        }
        differences = {name: part(name, difference) for name, difference in lora.differences.items()}
        return replace(lora, products=products, differences=differences)

    def put_on(self, loras: Sequence[Weighted], room: Room) -> None:
        """Put on these LoRAs, all of them fitted, in place of those that were on. Raises ``OutOfMemory``."""
        merged: dict[str, list[Weighted]] = {}
        beside: dict[str, list[Weighted]] = {}
        for lora, strength in loras:
            for name in lora.parameters:
                (beside if self._is_beside(name) else merged).setdefault(name, []).append((lora, strength))
        self._beside.put_on(beside)
        self._merged.put_on(merged, room)

    def _is_beside(self, name: str) -> bool:
        return not self._merges and name.rpartition(".")[0] in self._linears
