"""The tensors of a LoRA file and their places in a transformer, by the file's header. Imports no torch."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

from models.errors import LoraFault, WeightsError
from models.lora.key import LoraKey, Part, changes_text_encoder, refuse_other_kinds
from models.lora.peft import PeftConfig
from models.weights.checkpoint_contents import REMARKS
from models.weights.safetensors_header import FLOATS, FLOATS_8, StoredTensor, read_header
from models.weights.scales import fits, scales_of

Shapes: TypeAlias = Mapping[str, Sequence[int]]
"""Shapes of a transformer's parameters by their names in diffusers."""

Parts: TypeAlias = Mapping[Part, StoredTensor]

_MATRICES: tuple[Part, ...] = ("down", "up")
_PRODUCT: tuple[Part, ...] = (*_MATRICES, "up_bias", "alpha")

_BLOCKS = ("blocks.", "vace_blocks.")

_FLOAT_CODES = {
    "F64": ("<d", 8, 0),
    "F32": ("<f", 4, 0),
    "F16": ("<e", 2, 0),
    "BF16": ("<f", 2, 2),
    "F8_E5M2": ("<e", 1, 1),
}
"""How ``struct`` reads a number: its code, the bytes stored, and the zero bytes below them."""

_EMBEDDINGS = ("patch_embedding", "vace_patch_embedding")
"""Modules whose input channels tell the models of a family apart."""


@dataclass(frozen=True, slots=True)
class LoraContents:
    """The tensors of a LoRA file, by the module that they change.

    ``left_out`` are the names of the tensors that have no place in the transformer, in the file's order.
    """

    modules: Mapping[str, Parts]
    left_out: tuple[str, ...]
    peft: PeftConfig
    scales: Mapping[str, StoredTensor]
    """Scales of 8-bit tensors, by the names of those."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file's header and its alphas.

        Raises ``WeightsError`` for what is no whole safetensors file. Raises ``LoraFault`` for a kind of
        adapter that is not supported, and for tensors that are no LoRA of Wan's transformer.
        """
        header = read_header(file)
        for tensor in header.tensors:
            refuse_other_kinds(tensor.name)
        modules: dict[str, dict[Part, StoredTensor]] = {}
        left_out: list[str] = []
        scales = _scales(header.tensors)
        aside = {scale.name for scale in scales.values()}
        for tensor in header.tensors:
            if tensor.name in aside or tensor.name.split(".")[-1] in REMARKS:
                continue
            if (key := LoraKey.parse(tensor.name)) is None:
                left_out.append(tensor.name)
                continue
            parts = modules.setdefault(key.module, {})
            if key.part in parts:
                raise LoraFault(f"has the {key.part} of {key.module} twice.")
            _check_tensor(tensor, scales)
            parts[key.part] = tensor
        if not modules:
            raise _nothing_known(left_out)
        for module, of_module in modules.items():
            _check_product(module, of_module)
        _check_alphas(file, modules)
        return cls(modules, tuple(left_out), PeftConfig.of(file, header.metadata), scales)

    @property
    def num_tensors(self) -> int:
        """Number of tensors in the file."""
        return sum(len(parts) for parts in self.modules.values()) + len(self.left_out)

    @property
    def num_parameters(self) -> int:
        """How many numbers of the file are added to the transformer, or multiplied to be so."""
        return sum(
            prod(tensor.shape)
            for parts in self.modules.values()
            for part, tensor in parts.items()
            if part != "alpha"
        )

    def fitting(self, shapes: Shapes) -> Self:
        """Return the part of the LoRA that has its place among parameters of these shapes.

        Raises ``LoraFault`` where nothing of the transformer's blocks fits, or where the shape of what has a
        place is that of another model.
        """
        modules: dict[str, Parts] = {}
        missing: dict[str, str] = {}
        for module, parts in self.modules.items():
            placed = _placed(module, parts, shapes)
            missing |= {
                tensor.name: LoraKey(module, part).parameter
                for part, tensor in parts.items()
                if part not in placed
            }
            if placed:
                modules[module] = placed
        left_out = (*self.left_out, *missing)
        if left_out and not any(module.startswith(_BLOCKS) for module in modules):
            first = next(iter(missing.values()), left_out[0][:120])
            raise LoraFault(
                f"changes no block of this model; it has {first}, which this model does not have."
            )
        for module, parts in modules.items():
            for part, found in _changes(parts).items():
                _compare(LoraKey(module, part).parameter, found, shapes)
        return replace(self, modules=modules, left_out=left_out)


def left_out_sentence(left_out: Sequence[str], num_tensors: int) -> str:
    """Return the end of a sentence that begins with the LoRA's name, on the tensors that are not applied."""
    number = f"{len(left_out)} of its {num_tensors} tensors"
    have = "has" if len(left_out) == 1 else "have"
    return f"is applied without {number}, which {have} no place in this model: {left_out[0][:120]}" + (
        " is the first." if len(left_out) > 1 else "."
    )


def _nothing_known(names: Sequence[str]) -> LoraFault:
    if not names:
        return LoraFault("is empty.")
    if all(map(changes_text_encoder, names)):
        return LoraFault("changes a text encoder; only LoRAs of the transformer are applied.")
    return LoraFault(f"has a tensor {names[0][:120]!r}, which is of no convention that is known for Wan.")


def _scales(tensors: Sequence[StoredTensor]) -> dict[str, StoredTensor]:
    """Return the scales by the names of the tensors they belong to. Raises ``LoraFault`` for others."""
    by_name = {tensor.name: tensor for tensor in tensors}
    scales = {owner: by_name[name] for owner, name in scales_of(by_name).items()}
    for owner, scale in scales.items():
        if not fits(scale, by_name[owner]):
            raise LoraFault(
                f"has a scale {scale.name[:120]} that is no number for the tensor or for each of its rows."
            )
    return scales


def _check_tensor(tensor: StoredTensor, scales: Mapping[str, StoredTensor]) -> None:
    is_scaled_integer = tensor.dtype == "I8" and tensor.name in scales
    if tensor.dtype not in (*FLOATS, *FLOATS_8) and not is_scaled_integer:
        raise LoraFault(f"has numbers of type {tensor.dtype} in {tensor.name[:120]}.")
    if scales and tensor.dtype in FLOATS_8 and len(tensor.shape) > 1 and tensor.name not in scales:
        raise LoraFault(f"lacks the scale of {tensor.name[:120]}.")


def _check_alphas(file: Path, modules: Mapping[str, Parts]) -> None:
    """Raise ``LoraFault`` for an alpha that is not one finite number, ``WeightsError`` for a lost file."""
    try:
        with file.open("rb") as stream:
            for module, parts in modules.items():
                if "alpha" in parts and not _is_finite(stream, parts["alpha"]):
                    raise LoraFault(f"has an alpha of {module} that is not a finite number.")
    except (OSError, ValueError, struct.error) as error:  # a place outside the file is no place
        raise WeightsError(f"{file} is not a safetensors file.") from error


def _is_finite(stream: BinaryIO, alpha: StoredTensor) -> bool:
    if prod(alpha.shape) != 1 or alpha.dtype == "I8":
        return False
    stream.seek(alpha.begin)
    if alpha.dtype == "F8_E4M3":
        return stream.read(1) not in (b"\x7f", b"\xff")  # it has no infinity, and one NaN of each sign
    # The others are the upper bytes of a wider float of the same exponent.
    code, size, padding = _FLOAT_CODES[alpha.dtype]
    return isfinite(struct.unpack(code, bytes(padding) + stream.read(size))[0])


def _check_product(module: str, parts: Parts) -> None:
    if not parts.keys() & _PRODUCT:
        return
    for part in _MATRICES:
        if part not in parts:
            raise LoraFault(f"lacks the {part} matrix of {module}.")
        if len(parts[part].shape) < 2:
            raise LoraFault(f"has a {part} matrix of {module} that is no matrix.")
    rank, columns = parts["down"].shape[0], prod(parts["up"].shape[1:])
    if rank == 0 or columns != rank:
        raise LoraFault(f"has matrices of {module} that do not fit each other: {rank} and {columns}.")
    if "up_bias" in parts and "bias" in parts:
        raise LoraFault(f"has the bias of {module} twice.")


def _placed(module: str, parts: Parts, shapes: Shapes) -> Parts:
    placed = {part: tensor for part, tensor in parts.items() if LoraKey(module, part).parameter in shapes}
    if (
        placed
        and module in _EMBEDDINGS
        and _is_of_a_sibling(_changes(placed), tuple(shapes[f"{module}.weight"]))
    ):
        placed = {part: tensor for part, tensor in placed.items() if part == "bias"}
    if "down" not in placed:  # which the scale of the bias comes from
        placed.pop("up_bias", None)
    return placed


def _is_of_a_sibling(changes: Mapping[Part, tuple[int, ...]], shape: tuple[int, ...]) -> bool:
    """Return whether a module has this model's output channels, and inputs that this model does not have."""
    weights = [found for part, found in changes.items() if part in ("weight", "down")]
    return any(found[:1] == shape[:1] and prod(found[1:]) != prod(shape[1:]) for found in weights)


def _changes(parts: Parts) -> dict[Part, tuple[int, ...]]:
    """Return the shapes of what is added to parameters; ``down`` stands for that of the whole product."""
    shapes = {part: tensor.shape for part, tensor in parts.items() if part not in _PRODUCT}
    if "down" in parts:
        shapes["down"] = parts["up"].shape[0], prod(parts["down"].shape[1:])
    if "up_bias" in parts:
        shapes["up_bias"] = parts["up_bias"].shape
    return shapes


def _compare(parameter: str, found: tuple[int, ...], shapes: Shapes) -> None:
    expected = tuple(shapes[parameter])
    if found not in (expected, (expected[0], prod(expected[1:]))):
        raise LoraFault(f"changes a {parameter} of {_by(found)}; that of this model is {_by(expected)}.")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
