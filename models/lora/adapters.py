"""LoRAs on a loaded transformer: put on and taken off between runs, or added to the weights once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.lora.file import Lora, LowRank

Weighted: TypeAlias = tuple[Lora, float]
"""A LoRA and the strength it acts with."""


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

    def add(self, parameter: str, difference: Tensor, factor: float) -> None:
        """Add a whole difference of the layer's weight or bias."""
        (self.biases if parameter.endswith(".bias") else self.weights).append((difference, factor))

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


class Adapters:
    """The parameters of a transformer as it was loaded, and the LoRAs that are on it.

    To be made before layers are replaced by others of the same use. A linear layer is wrapped while a LoRA
    that changes it is on.
    """

    def __init__(self, transformer: Any) -> None:
        self._model = transformer
        self._shapes = {name: tuple(value.shape) for name, value in transformer.named_parameters()}
        self._dtypes = {name: value.dtype for name, value in transformer.named_parameters()}
        self._linears = {
            name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)
        }
        self._adapted: dict[str, AdaptedLinear] = {}
        self._originals: dict[str, Tensor] = {}
        """Copies of the parameters outside linear layers that are changed now, as they were loaded."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the parameters that a LoRA may change, by name."""
        return self._shapes

    def fitted(self, lora: Lora, device: torch.device) -> Lora:
        """Return a LoRA that was read for ``shapes`` on the device, in the dtypes of this transformer."""
        products: dict[str, LowRank] = {}
        differences: dict[str, Tensor] = {}
        for name in _names(lora):
            if _module(name) not in self._linears:
                differences[name] = _whole(lora, name, self._shapes[name], device)
                continue
            dtype = self._dtypes[name]
            if name in lora.products:
                product = lora.products[name]
                down, up = product.down.to(device, dtype), product.up.to(device, dtype)
                products[name] = LowRank(down, up, product.scale)
            if name in lora.differences:
                differences[name] = lora.differences[name].to(device, dtype)
        return replace(lora, products=products, differences=differences)

    def put_on(self, loras: Sequence[Weighted]) -> None:
        """Put on these LoRAs, all of them fitted, in place of those that were on."""
        self.take_off()
        sums: dict[str, Tensor] = {}
        for lora, strength in loras:
            for name, product in lora.products.items():
                term = product.down, product.up, strength * product.scale
                self._linear(_module(name)).products.append(term)
            for name, difference in lora.differences.items():
                if _module(name) not in self._linears:
                    sums[name] = sums.get(name, 0.0) + strength * difference
                else:
                    self._linear(_module(name)).add(name, difference, strength)
        for name, total in sums.items():
            parameter = self._model.get_parameter(name)
            self._originals[name] = parameter.clone()
            parameter.copy_(parameter.float() + total.to(parameter.device))

    def take_off(self) -> None:
        """Take all LoRAs off: the transformer is as it was loaded."""
        for path, linear in self._adapted.items():
            self._model.set_submodule(path, linear.base)
        self._adapted.clear()
        for name, original in self._originals.items():
            self._model.get_parameter(name).copy_(original)
        self._originals.clear()

    @torch.no_grad()
    def fuse(self, lora: Lora, strength: float) -> None:
        """Add a LoRA read for ``shapes`` to the weights, each rounded once. Only before any ``put_on``."""
        for name in _names(lora):
            parameter = self._model.get_parameter(name)
            difference = _whole(lora, name, parameter.shape, parameter.device)
            parameter.copy_(parameter.float().add_(difference, alpha=strength))

    def _linear(self, path: str) -> AdaptedLinear:
        if path not in self._adapted:
            self._adapted[path] = AdaptedLinear(self._model.get_submodule(path))
            self._model.set_submodule(path, self._adapted[path])
        return self._adapted[path]


def _names(lora: Lora) -> list[str]:
    """Return the names of the parameters that a LoRA changes."""
    return list(dict.fromkeys([*lora.products, *lora.differences]))


def _module(name: str) -> str:
    """Return the name of a parameter's module."""
    return name.rpartition(".")[0]


def _whole(lora: Lora, name: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the sum of what a LoRA of strength 1 adds to a parameter, in float32."""
    whole = torch.zeros(tuple(shape), device=device)
    if name in lora.products:
        product = lora.products[name]
        up, down = product.up.to(device, torch.float32), product.down.to(device, torch.float32)
        whole += (product.scale * up @ down).view(shape)
    if name in lora.differences:
        whole += lora.differences[name].to(device, torch.float32)
    return whole
