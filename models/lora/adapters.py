"""LoRAs on a loaded transformer: taken on and off between runs, or made part of it for good."""

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import LoraFault
from models.lora.file import Lora, LowRank

Weighted: TypeAlias = tuple[Lora, float]
"""A LoRA and the strength it acts with."""


class AdaptedLinear(nn.Module):
    """A linear layer, whatever its class, and what LoRAs add to what comes out of it.

    The layer itself is never changed, so without terms its numbers are what they were, to the bit.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.products: list[tuple[Tensor, Tensor, float]] = []
        """``down`` ``[r, in]``, ``up`` ``[out, r]`` and the factor of each."""
        self.weights: list[tuple[Tensor, float]] = []
        """Whole differences of the weight ``[out, in]``, and the factor of each."""
        self.biases: list[tuple[Tensor, float]] = []

    def clear(self) -> None:
        """Take every LoRA off."""
        self.products, self.weights, self.biases = [], [], []

    def add(self, parameter: str, difference: Tensor, factor: float) -> None:
        """Add a whole difference of the layer's weight or bias."""
        (self.biases if parameter.endswith(".bias") else self.weights).append((difference, factor))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own result with that of each LoRA added."""
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
    """What of a transformer LoRAs may change, as it was loaded, and the LoRAs that it has on.

    Made before anything replaces layers by others of the same use. The linear layers that a LoRA has had to
    do with are wrapped from then on; all others stay as they are.
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
        """The numbers of the parameters that are changed now and are no linear layer's."""

    def fitted(self, lora: Lora, device: torch.device) -> Lora:
        """The LoRA on the device, in the numbers that this transformer computes with.

        Raises ``LoraFault`` unless each of its parts has its place in the transformer.
        """
        self._check(lora)
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
        return Lora(products, differences)

    def put_on(self, loras: Sequence[Weighted]) -> None:
        """Have these LoRAs on, all of them fitted, and no others."""
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
        """The transformer as it was loaded."""
        for linear in self._adapted.values():
            linear.clear()
        for name, original in self._originals.items():
            self._model.get_parameter(name).copy_(original)
        self._originals.clear()

    @torch.no_grad()
    def fuse(self, lora: Lora, strength: float) -> None:
        """Make the LoRA part of the weights, each of them rounded once. Only before any LoRA was put on.

        Raises ``LoraFault`` unless it fits.
        """
        self._check(lora)
        for name in _names(lora):
            parameter = self._model.get_parameter(name)
            difference = _whole(lora, name, parameter.shape, parameter.device)
            parameter.copy_(parameter.float().add_(difference, alpha=strength))

    def _check(self, lora: Lora) -> None:
        for name, product in lora.products.items():
            out, *inputs = self._shape(name)
            _compare(name, (product.up.shape[0], product.down.shape[1]), (out, prod(inputs)))
        for name, difference in lora.differences.items():
            _compare(name, difference.shape, self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise LoraFault(f"changes {name}, which this model does not have.")
        return self._shapes[name]

    def _linear(self, path: str) -> AdaptedLinear:
        if path not in self._adapted:
            self._adapted[path] = AdaptedLinear(self._model.get_submodule(path))
            self._model.set_submodule(path, self._adapted[path])
        return self._adapted[path]


def _names(lora: Lora) -> list[str]:
    """The parameters that a LoRA changes."""
    return list(dict.fromkeys([*lora.products, *lora.differences]))


def _module(name: str) -> str:
    """The module of a parameter."""
    return name.rpartition(".")[0]


def _whole(lora: Lora, name: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """All that a LoRA of strength 1 adds to a parameter, in float32."""
    whole = torch.zeros(tuple(shape), device=device)
    if name in lora.products:
        product = lora.products[name]
        up, down = product.up.to(device, torch.float32), product.down.to(device, torch.float32)
        whole += (product.scale * up @ down).view(shape)
    if name in lora.differences:
        whole += lora.differences[name].to(device, torch.float32)
    return whole


def _compare(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(found) != tuple(expected):
        raise LoraFault(f"changes a {name} of {_by(found)}; that of this model is {_by(expected)}.")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
