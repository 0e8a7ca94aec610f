"""LoRA files, read in any convention as what they add to each parameter of a transformer.

Only the keys tell the conventions apart: all of them mean ``W + alpha / rank · up @ down`` for the weight of
a module, and a whole difference where there is no such product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import WeightsError
from models.lora.contents import LoraContents, Shapes
from models.lora.key import LoraKey, Part
from models.lora.peft import PeftConfig
from models.weights.safetensors_header import StoredTensor

_WHOLE: tuple[Part, ...] = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class LowRank:
    """A low-rank difference of a weight ``[out, in]``: ``scale · up @ down``, ``[out, r]`` and ``[r, in]``.

    Of a convolution's weight, ``in`` is channels and kernel as one.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """What a LoRA of strength 1 adds to a transformer's parameters, by their names in diffusers.

    ``left_out`` are the names of the file's tensors that have no place there, of ``num_tensors`` in all.
    """

    products: Mapping[str, LowRank]
    differences: Mapping[str, Tensor]
    left_out: tuple[str, ...] = ()
    num_tensors: int = 0

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters that are changed, each once."""
        return list(dict.fromkeys([*self.products, *self.differences]))

    @property
    def size_bytes(self) -> int:
        """Bytes of all the tensors that are applied."""
        tensors = [*self.differences.values()]
        for product in self.products.values():
            tensors += [product.down, product.up]
        return sum(tensor.nbytes for tensor in tensors)


def read_lora(file: Path, shapes: Shapes | None = None) -> Lora:
    """Read a file to the CPU, its numbers as they are: what fits a transformer of these shapes, or all of it.

    Raises ``WeightsError`` for what is no whole safetensors file, ``LoraFault`` for what cannot be applied.
    """
    contents = LoraContents.read(file)
    if shapes is not None:
        contents = contents.fitting(shapes)
    products: dict[str, LowRank] = {}
    differences: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as content:
            for module, stored in contents.modules.items():
                parts = {part: _read(content, tensor, contents.scales) for part, tensor in stored.items()}
                _add(module, parts, contents.peft, products, differences)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} is not a safetensors file.") from error
    return Lora(products, differences, contents.left_out, contents.num_tensors)


def _read(content: Any, stored: StoredTensor, scales: Mapping[str, StoredTensor]) -> Tensor:
    tensor: Tensor = content.get_tensor(stored.name)
    if tuple(tensor.shape) != stored.shape:
        raise WeightsError(f"{stored.file} was replaced while it was read.")
    if stored.name in scales:
        scale: Tensor = content.get_tensor(scales[stored.name].name).float()
        return tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
    return tensor.clone()  # what is read is the file itself, mapped, and that may be replaced


def _add(
    module: str,
    parts: Mapping[Part, Tensor],
    peft: PeftConfig,
    products: dict[str, LowRank],
    differences: dict[str, Tensor],
) -> None:
    """Add what a module's parts mean."""
    if "down" in parts:
        product = _product(module, parts, peft)
        products[LoraKey(module, "down").parameter] = product
        if "up_bias" in parts:  # peft scales it as it does the product
            differences[f"{module}.bias"] = parts["up_bias"].float() * product.scale
    for part in _WHOLE:
        if part in parts:
            differences[LoraKey(module, part).parameter] = parts[part]


def _product(module: str, parts: Mapping[Part, Tensor], peft: PeftConfig) -> LowRank:
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)
    rank = down.shape[0]
    scale = peft.scale(module, rank)
    if "alpha" in parts:
        scale = float(parts["alpha"].item()) / rank
    return LowRank(down, up, scale)
