"""Transformer weights from single safetensors files outside the diffusers layout.

Accepts the tensor names of diffusers and of the Wan repositories, the latter with or without ComfyUI's
prefix, in plain floats or in 8-bit floats with a scale, which are dequantised. A VAE, a text encoder and
whatever else is bundled with the transformer is left out, and told in the log.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import WeightsError
from models.variants import Variant
from models.weights.checkpoint_contents import REMARKS, read_contents
from models.weights.safetensors_header import FLOATS, FLOATS_8, StoredTensor
from models.weights.scales import fits, scales_of

_LOGGER = logging.getLogger(__name__)

_AT_ONCE = 4
"""Tensors read at once: a single thread is slower than a disk, or than the way to a GPU."""

_ANIMATE = ("motion_encoder.", "face_adapter.", "face_encoder.")
"""Name prefixes of Wan-Animate's tensors, which is not supported and which the conversion would try to
reshape.
"""

_NOT_CONVERTED = {"img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed"}
"""Names of the first-and-last-frame model that diffusers' own conversion omits."""

_UNUSED = "norm_added_q"
"""Name of tensors in checkpoints saved by diffusers that none of its modules has."""


@dataclass(frozen=True, slots=True)
class _Weight:
    stored: StoredTensor
    scale: StoredTensor | None

    def read(self, readers: Mapping[Path, Any], device: torch.device, dtype: torch.dtype) -> Tensor:
        tensor = _tensor(readers, self.stored, device)
        if self.scale is None:
            return tensor.to(dtype)
        scale = _tensor(readers, self.scale, device).float()
        return (tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))).to(dtype)


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

    def fill(self, model: Any, variant: Variant, device: torch.device, dtype: torch.dtype) -> None:
        """Load these tensors into ``model``, a transformer on the meta device, in ``dtype`` on ``device``.

        Moves tensors one by one, a few at a time, so that the host holds no second copy of all. Raises
        ``WeightsError`` if the tensors are of another model than ``variant``.
        """
        self._check(variant, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
        in_float32 = set(model._keep_in_fp32_modules)  # modules that diffusers, too, loads in float32
        with self._readers() as readers, ThreadPoolExecutor(_AT_ONCE, "weights") as threads:

            def read(name: str) -> Tensor:
                own_dtype = dtype if in_float32.isdisjoint(name.split(".")) else torch.float32
                return self._weights[name].read(readers, device, own_dtype)

            tensors = dict(zip(self._weights, threads.map(read, self._weights), strict=True))
        model.load_state_dict(tensors, assign=True)

    @contextmanager
    def _readers(self) -> Iterator[Mapping[Path, Any]]:
        stored = [part for weight in self._weights.values() for part in (weight.stored, weight.scale) if part]
        try:
            with ExitStack() as stack:
                yield {
                    file: stack.enter_context(safe_open(file, framework="pt"))
                    for file in {tensor.file for tensor in stored}
                }
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{self.path} cannot be read: {error}") from error

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
                name = min(names)
                shown = self._weights[name].stored.name if name in found else name
                raise WeightsError(f"{self.path} {fault.format(len(names), variant.name)}, such as {shown}.")


_FACTS = ("width", "input channels", "number of layers", "number of control blocks")


def _facts(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the numbers that distinguish one Wan transformer from another, in the order of ``_FACTS``."""
    width, channels = (*shapes["patch_embedding.weight"], 0, 0)[:2]
    return width, channels, _count("blocks", shapes), _count("vace_blocks", shapes)


def _count(blocks: str, names: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(f"{blocks}.")})


def _diffusers_names(weights: Mapping[str, _Weight]) -> dict[str, _Weight]:
    if any(name.startswith("condition_embedder.") for name in weights):
        return {name: weight for name, weight in weights.items() if _UNUSED not in name}
    foreign = {name for name in weights if name.startswith(_ANIMATE)}
    # the conversion renames keys without reading values, so names can stand in for tensors
    converted = convert_wan_transformer_to_diffusers({name: name for name in weights if name not in foreign})
    names = {original: _NOT_CONVERTED.get(name, name) for name, original in converted.items()}
    return {names.get(name, name): weight for name, weight in weights.items()}


def _tensor(readers: Mapping[Path, Any], stored: StoredTensor, device: torch.device) -> Tensor:
    tensor: Tensor = readers[stored.file].get_tensor(stored.name)
    return tensor.to(device)
