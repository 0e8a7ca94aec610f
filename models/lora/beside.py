"""LoRAs beside the linear layers of a transformer, whose weights stay as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.lora.merging import Weighted


class AdaptedLinear(nn.Module):
    """A linear layer of any class with LoRAs beside it, whose results are added to the layer's.

    The layer itself is never changed: without LoRAs its results are those of the layer, to the bit.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.products: list[tuple[Tensor, Tensor, float]] = []
        """``down`` ``[r, in]``, ``up`` ``[out, r]`` and the factor of each."""
        self.weights: list[tuple[Tensor, float]] = []
        """Whole differences of the weight ``[out, in]``, and the factor of each."""
        self.biases: list[tuple[Tensor, float]] = []

    def add(self, parameter: str, loras: Sequence[Weighted]) -> None:
        """Add what LoRAs change of the layer's weight or bias, by the parameter's name."""
        for lora, strength in loras:
            if parameter in lora.products:
                product = lora.products[parameter]
                self.products.append((product.down, product.up, strength * product.scale))
            if parameter in lora.differences:
                whole = self.biases if parameter.endswith(".bias") else self.weights
                whole.append((lora.differences[parameter], strength))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's own result with that of each LoRA added."""
        y: Tensor = self.base(x)
        tokens, out = x.flatten(0, -2), y.flatten(0, -2)
        for down, up, factor in self.products:
            out = out.addmm_(F.linear(tokens, down), up.t(), alpha=factor)
        for weight, factor in self.weights:
            out = out.addmm_(tokens, weight.t(), alpha=factor)
        for bias, factor in self.biases:
            out = out.add_(bias, alpha=factor)
        return out.view_as(y)


class AdaptedLayers:
    """The linear layers of a transformer that have LoRAs beside them now."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._adapted: dict[str, AdaptedLinear] = {}

    def put_on(self, loras: Mapping[str, Sequence[Weighted]]) -> None:
        """Put these LoRAs beside the layers, by the parameters they change, in place of those before."""
        self.take_off()
        for name, changes in loras.items():
            path = name.rpartition(".")[0]
            if path not in self._adapted:
                self._adapted[path] = AdaptedLinear(self._model.get_submodule(path))
                self._model.set_submodule(path, self._adapted[path])
            self._adapted[path].add(name, changes)

    def take_off(self) -> None:
        """Leave every layer as it was loaded."""
        for path, linear in self._adapted.items():
            self._model.set_submodule(path, linear.base)
        self._adapted.clear()
