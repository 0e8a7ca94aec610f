"""One operation on the fake device: the tensors that it reads, fills and makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from torch import Tensor
from torch._ops import OpOverload

Overload: TypeAlias = OpOverload[Any, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as its observers see it. One that only makes a view fills and makes nothing."""

    name: str
    """Name without that of the overload, such as ``aten.addmm``."""
    operands: tuple[Tensor, ...]
    """All tensors among its arguments, in order."""
    read: tuple[Tensor, ...]
    """Those that it reads, each once."""
    filled: tuple[Tensor, ...]
    """Tensors among the arguments that it writes to."""
    made: tuple[Tensor, ...]
    """Results in memory of their own."""

    @property
    def writes(self) -> bool:
        """True if the operation writes values: false for a view and for an allocation alone."""
        return bool(self.filled or self.made) and not self.name.startswith(("aten.empty", "aten.new_empty"))


def operation_of(
    overload: Overload, args: Sequence[Any], kwargs: Mapping[str, Any], result: object
) -> Operation:
    """Describe a call by its schema, whatever it is an operation of.

    What an operation writes to in place is read as well, unless it is a copy, a fill or an ``out`` argument.
    Of other operations than torch's own, arguments that are written to count as filled only.
    """
    writable = _written_names(overload)
    filled = tuple(tensor for name, tensor in _named(overload, args, kwargs) if name in writable)
    operands = tuple(tensors((*args, *kwargs.values())))
    given = {id(tensor): tensor for tensor in operands}
    storages = {storage_of(tensor) for tensor in given.values()}
    made = tuple(tensor for tensor in tensors(result) if storage_of(tensor) not in storages)
    unread = {id(tensor) for tensor in filled} if _fills_only(overload) else set()
    if _takes_shapes_only(overload):
        unread = set(given)
    read = tuple(tensor for key, tensor in given.items() if key not in unread)
    return Operation(_name(overload), operands, read, filled, made)


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in a value, or in the lists and tuples that it consists of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def storage_of(tensor: Tensor) -> int:
    """Return what identifies the memory that a tensor lies in, as its views do."""
    identity: int = tensor.untyped_storage()._cdata
    return identity


def _named(
    overload: Overload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    names = [argument.name for argument in overload._schema.arguments]
    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        for tensor in tensors(value):
            yield name, tensor


@cache
def _name(overload: Overload) -> str:
    return str(overload.overloadpacket)


@cache
def _written_names(overload: Overload) -> frozenset[str]:
    return frozenset(
        argument.name
        for argument in overload._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@cache
def _fills_only(overload: Overload) -> bool:
    in_place = overload.namespace == "aten" and overload._schema.name.endswith("_")
    return not in_place or _name(overload) in _FILLING


@cache
def _takes_shapes_only(overload: Overload) -> bool:
    """Return whether an operation makes a tensor in the shape of another, whose values it does not read."""
    name = _name(overload)
    return name.startswith("aten.new_") or (name.startswith("aten.") and name.endswith("_like"))


_FILLING = frozenset({"aten.copy_", "aten.fill_", "aten.zero_", "aten.normal_", "aten.uniform_"})
