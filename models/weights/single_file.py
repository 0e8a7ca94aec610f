"""Transformer weights from single safetensors files outside the diffusers layout.

Accepts the tensor names of diffusers and of the Wan repositories, the latter with or without ComfyUI's
prefix, in plain floats or in 8-bit floats with a scale, which are dequantised. A VAE, a text encoder and
whatever else is bundled with the transformer is left out, and told in the log.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import WeightsError
from models.networks.transformer import WanTransformer
from models.variants import Variant
from models.weights.arrival import scaled
from models.weights.carrier import Carrier
from models.weights.checkpoint_contents import REMARKS, read_contents
from models.weights.mapped_files import MappedFiles, mapped
from models.weights.module_dtypes import ModuleDtypes
from models.weights.original_names import diffusers_name
from models.weights.safetensors_header import FLOATS, FLOATS_8, StoredTensor
from models.weights.scales import fits, scales_of
from models.weights.stored_module import fill, first_few, is_unused

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Weight:
    stored: StoredTensor
    scale: StoredTensor | None

    def read(self, files: MappedFiles, carrier: Carrier, dtype: torch.dtype, *, as_stored: bool) -> Tensor:
        tensor = files.tensor(self.stored)
        if as_stored:
            return carrier.carry(tensor, tensor.dtype)
        if self.scale is None:
            return carrier.carry(tensor, dtype)
        return scaled(carrier.carry(tensor, tensor.dtype), files.tensor(self.scale), dtype)


class SingleFile:
    """The tensors of one transformer by their diffusers names, from one or several files."""

    def __init__(self, path: Path) -> None:
        """Read the headers only. Raises ``WeightsError`` for truncated files, for other formats and where
        there is no transformer.
        """
        self.path = path
        contents = read_contents(path)
        if contents.left_out:
            _LOGGER.warning("The checkpoint %s %s", path, contents.left_out_sentence)
        self._weights = _diffusers_names(self._scaled(contents.transformer))

    def fill(
        self,
        model: Any,
        variant: Variant,
        carrier: Carrier,
        dtype: torch.dtype,
        *,
        as_stored: bool = False,
    ) -> dict[str, Tensor]:
        """Load these tensors into ``model``, a transformer on the meta device, in ``dtype``.

        ``as_stored``: see ``StoredModule.load``. Returns the scales of what is then still in 8 bits, by the
        names of the parameters. Raises ``WeightsError`` if the tensors are of another model than ``variant``.
        """
        self._check(variant, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
        dtypes = ModuleDtypes(WanTransformer, dtype)
        stored = [part for weight in self._weights.values() for part in (weight.stored, weight.scale) if part]
        with mapped(stored, self.path) as files:

            def read(name: str) -> Tensor:
                return self._weights[name].read(files, carrier, dtypes.of(name), as_stored=as_stored)

            fill(model, self._weights, read)
            if not as_stored:
                return {}
            scales = {name: weight.scale for name, weight in self._weights.items() if weight.scale}
            return {name: files.tensor(scale).clone() for name, scale in scales.items()}

    def _scaled(self, tensors: Mapping[str, StoredTensor]) -> dict[str, _Weight]:
        """Pair each tensor with its scale. Raises ``WeightsError`` for any other kind of quantisation."""
        scales = scales_of(tensors)
        left_out = {*scales.values(), *(name for name in tensors if name.split(".")[-1] in REMARKS)}
        weights = {
            name: _Weight(tensor, tensors[scales[name]] if name in scales else None)
            for name, tensor in tensors.items()
            if name not in left_out
        }
        for weight in weights.values():
            self._check_format(weight, scaled=bool(scales))
        return weights

    def _check_format(self, weight: _Weight, scaled: bool) -> None:
        stored, scale = weight.stored, weight.scale
        if stored.dtype not in (*FLOATS, *FLOATS_8):
            raise WeightsError(
                f"{self.path} holds {stored.name} as {stored.dtype}; "
                f"taken are {', '.join((*FLOATS, *FLOATS_8))}."
            )
        if scale is None:
            if scaled and stored.dtype in FLOATS_8 and len(stored.shape) == 2:
                raise WeightsError(f"{self.path} lacks the scale of {stored.name}.")
            return
        if not fits(scale, stored):
            raise WeightsError(
                f"{self.path} scales {stored.name} by {scale.dtype} of shape {list(scale.shape)}; "
                f"taken is one number for the tensor or for each of its {stored.shape[0]} rows."
            )

    def _check(self, variant: Variant, expected: Mapping[str, tuple[int, ...]]) -> None:
        found = {name: weight.stored.shape for name, weight in self._weights.items()}
        for what, there, wanted in zip(_FACTS, _facts(found), _facts(expected), strict=True):
            if there != wanted:
                raise WeightsError(
                    f"{self.path} is not {variant.name}: its {what} should be {wanted}, but it has {there}."
                )
        faults = {
            "lacks {} tensors of {}": expected.keys() - found.keys(),
            "has {} tensors that are none of {}": found.keys() - expected.keys(),
            "has {} tensors in another shape than {}": {n for n in expected if found.get(n) != expected[n]},
        }
        for fault, names in faults.items():
            if names:
                shown = {self._weights[name].stored.name if name in found else name for name in names}
                raise WeightsError(
                    f"{self.path} {fault.format(len(names), variant.name)}, such as {first_few(shown)}."
                )


_FACTS = ("width", "input channels", "number of layers", "number of control blocks")


def _facts(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the numbers that distinguish one Wan transformer from another, in the order of ``_FACTS``."""
    width, channels = (*shapes["patch_embedding.weight"], 0, 0)[:2]
    return width, channels, _count("blocks", shapes), _count("vace_blocks", shapes)


def _count(blocks: str, names: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{blocks}.")})


def _diffusers_names(weights: Mapping[str, _Weight]) -> dict[str, _Weight]:
    if any(name.startswith("condition_embedder.") for name in weights):
        return {name: weight for name, weight in weights.items() if not is_unused(name)}
    return {diffusers_name(name): weight for name, weight in weights.items()}
