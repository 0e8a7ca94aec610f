"""A LoRA file, in any convention, as what it adds to each parameter of a transformer.

Only the keys tell the conventions apart: all of them mean ``W + alpha / rank · up @ down`` for the weight of
a module, and a whole difference where there is no such product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import LoraFault, WeightsError
from models.lora.key import LoraKey, Part
from models.lora.peft import PeftConfig
from models.weights.folder import check_safetensors

_TABLES = ("scale_shift_table", "pos_embed")
"""Parameters that are not the weight or bias of a module."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to a weight ``[out, in]``: ``scale · up @ down``, of ``[out, r]`` and ``[r, in]``.

    Of a convolution's weight, ``in`` is channels and kernel as one.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """What a LoRA of strength 1 adds to a transformer's parameters, by their names in diffusers."""

    products: Mapping[str, LowRank]
    differences: Mapping[str, Tensor]

    @property
    def size_bytes(self) -> int:
        """Bytes of all its tensors."""
        tensors = [*self.differences.values()]
        for product in self.products.values():
            tensors += [product.down, product.up]
        return sum(tensor.nbytes for tensor in tensors)


def read_lora(file: Path) -> Lora:
    """The file on the CPU, with its numbers as they are.

    Raises ``WeightsError`` for what is no whole safetensors file and ``LoraFault`` for what is in it.
    """
    check_safetensors(file)
    parts: dict[str, dict[Part, Tensor]] = {}
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            for name in content.keys():  # noqa: SIM118 - it is no mapping
                key = LoraKey.parse(name)
                of_module = parts.setdefault(key.module, {})
                if key.part in of_module:
                    raise LoraFault(f"has the {key.part} of {key.module} twice.")
                of_module[key.part] = _floating(name, content.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} is not a safetensors file.") from error
    if not parts:
        raise LoraFault("is empty.")
    return _lora(parts, PeftConfig.of(file, metadata))


def _floating(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise LoraFault(f"has numbers of type {tensor.dtype} in {name}.")
    return tensor.clone()  # what is read is the file itself, mapped, and that may be replaced


def _lora(parts: Mapping[str, Mapping[Part, Tensor]], config: PeftConfig) -> Lora:
    products: dict[str, LowRank] = {}
    differences: dict[str, Tensor] = {}
    for module, of_module in parts.items():
        bias = of_module.get("bias")
        if of_module.keys() & {"down", "up", "up_bias", "alpha"}:
            product = _product(module, of_module, config)
            products[f"{module}.weight"] = product
            if "up_bias" in of_module:  # peft scales it as it does the product
                if bias is not None:
                    raise LoraFault(f"has the bias of {module} twice.")
                bias = of_module["up_bias"].float() * product.scale
        if "weight" in of_module:
            table = module.endswith(_TABLES)
            differences[module if table else f"{module}.weight"] = of_module["weight"]
        if bias is not None:
            differences[f"{module}.bias"] = bias
    return Lora(products, differences)


def _product(module: str, parts: Mapping[Part, Tensor], config: PeftConfig) -> LowRank:
    for part in ("down", "up"):
        if part not in parts:
            raise LoraFault(f"lacks the {part} matrix of {module}.")
        if parts[part].ndim < 2:
            raise LoraFault(f"has a {part} matrix of {module} that is no matrix.")
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)
    rank = down.shape[0]
    if rank == 0 or up.shape[1] != rank:
        raise LoraFault(f"has matrices of {module} that do not fit each other: {rank} and {up.shape[1]}.")
    scale = config.scale(module, rank)
    if "alpha" in parts:
        scale = _scalar(module, parts["alpha"]) / rank
    return LowRank(down, up, scale)


def _scalar(module: str, alpha: Tensor) -> float:
    if alpha.numel() != 1 or not isfinite(alpha.item()):
        raise LoraFault(f"has an alpha of {module} that is not a finite number.")
    return float(alpha.item())
