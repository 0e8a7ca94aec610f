"""Bytes that operations move on the device, their floating point operations and launches, and host waits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from testbed.fake_device.operation import Operation, storage_of

Kind: TypeAlias = Literal["product", "convolution", "attention", "other"]

_PRODUCTS = frozenset(
    f"aten.{name}"
    for name in ("linear", "mm", "addmm", "bmm", "baddbmm", "matmul", "_scaled_mm", "_addmm_activation")
)
_CONVOLUTIONS = frozenset({"aten.conv2d", "aten.conv3d", "aten.convolution", "wan_serve.convolve_volume"})


@dataclass(frozen=True, slots=True)
class Moved:
    """What one launch moves."""

    name: str
    kind: Kind
    read_bytes: int
    written_bytes: int
    flops: int = 0
    """Floating point operations of a product, a convolution or attention; 0 for the others."""
    weight: str = ""
    """Name of the parameter that a product multiplies by or adds: its layer's."""

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.written_bytes


class Traffic:
    """An observer that counts each operation as reading its inputs and writing its results once.

    One operation counts as one launch. A convolution's bias, which torch adds after cuDNN's kernel, is one of
    its own, and so is the copy of an input that does not lie as the weight does.
    """

    def __init__(self, weights: nn.Module | None = None) -> None:
        """``weights``: a module whose parameters and buffers give products their names."""
        self._names = {} if weights is None else _names_of(weights)
        self.launches: list[Moved] = []
        self.waits: list[str] = []
        """What the host waited in, by the name of each operation or function."""

    def operated(self, operation: Operation) -> None:
        """Count an operation."""
        if operation.writes:
            self.launches.extend(self._moved(operation))

    def waited(self, name: str) -> None:
        """Count a wait."""
        self.waits.append(name)

    @property
    def flops(self) -> int:
        """Floating point operations of all products, convolutions and attention."""
        return sum(moved.flops for moved in self.launches)

    def of(self, kind: Kind) -> list[Moved]:
        """Return the launches of one kind."""
        return [moved for moved in self.launches if moved.kind == kind]

    def _moved(self, operation: Operation) -> Iterator[Moved]:
        kind = kind_of(operation.name)
        read = sum(map(_bytes, operation.read))
        written = sum(map(_bytes, (*operation.filled, *operation.made)))
        if kind == "convolution" and _is_torchs(operation):
            yield from _beside_convolution(operation)
        weight = self._weight(operation) if kind == "product" else ""
        yield Moved(operation.name, kind, read, written, _flops(kind, operation), weight)

    def _weight(self, operation: Operation) -> str:
        names = (self._names.get(storage_of(tensor), "") for tensor in operation.read)
        return next(filter(None, names), "")


def kind_of(name: str) -> Kind:
    """Return the kind of an operation; one that is not known by its name counts as another."""
    if name in _PRODUCTS:
        return "product"
    if name in _CONVOLUTIONS:
        return "convolution"
    return "attention" if "attention" in name else "other"


def total_bytes(launches: Iterable[Moved]) -> int:
    """Add up the bytes of launches."""
    return sum(moved.bytes for moved in launches)


def _beside_convolution(operation: Operation) -> Iterator[Moved]:
    pictures, weight, *bias = operation.operands
    (result,) = operation.made
    layout = torch.channels_last if result.ndim == 4 else torch.channels_last_3d
    if weight.is_contiguous(memory_format=layout) and not pictures.is_contiguous(memory_format=layout):
        size = _bytes(pictures)
        yield Moved(f"layout of {operation.name}", "other", size, size)
    if bias:
        size = _bytes(result)
        yield Moved(f"bias of {operation.name}", "other", size, size)


def _flops(kind: Kind, operation: Operation) -> int:
    """Count a multiplication and the addition after it as two; of attention, torch's own alone."""
    if kind == "other" or (kind == "attention" and not _is_torchs(operation)):
        return 0
    result, operands = operation.made[0], operation.operands
    if kind == "attention":
        queries, keys, values = operands[:3]
        return 2 * prod(queries.shape[:-1]) * keys.shape[-2] * (queries.shape[-1] + values.shape[-1])
    if kind == "convolution":
        # a transposed one, which makes pictures larger, multiplies each value of its input
        transposed = result.shape[-1] > operands[0].shape[-1]
        return 2 * (operands[0] if transposed else result).numel() * prod(operands[1].shape[1:])
    bias_first = operation.name in ("aten.addmm", "aten.baddbmm", "aten._addmm_activation")
    return 2 * result.numel() * operands[1 if bias_first else 0].shape[-1]


def _is_torchs(operation: Operation) -> bool:
    return operation.name.startswith("aten.")


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's values, those that an expansion repeats once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in sizes if stride or not size) * tensor.itemsize


def _names_of(module: nn.Module) -> dict[int, str]:
    named = (*module.named_parameters(), *module.named_buffers())
    return {storage_of(tensor): name for name, tensor in named}
