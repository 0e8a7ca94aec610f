"""Contents of a checkpoint: the tensors of its transformer, and the other parts that it may hold beside it.

ComfyUI saves a model as one file: the transformer under ``model.diffusion_model.``, the VAE, the text
encoder and what else it was run with under prefixes of their own.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import WeightsError
from models.weights.safetensors_header import StoredTensor, stored_tensors, weight_files

REMARKS = ("scaled_fp8", "input_scale", "scale_input", "comfy_quant")
"""Last name components of tensors that only describe how to compute with quantised weights; they are
ignored.
"""

_PARTS = {
    "first_stage_model": "VAE",
    "vae": "VAE",
    "cond_stage_model": "text encoder",
    "conditioner": "text encoder",
    "text_encoders": "text encoder",
    "text_encoder": "text encoder",
    "clip_vision": "image encoder",
    "clip_vision_model": "image encoder",
    "image_encoder": "image encoder",
    "model_ema": "moving average of the weights",
    "model_sampling": "sampling constants",
}
"""Parts that a checkpoint may hold beside its transformer, by the first name component of their tensors."""

_MARKER = "patch_embedding.weight"
"""Name of a tensor that every Wan transformer has, and no LoRA."""

_FIRST_BLOCK = "blocks.0."
"""Prefix of tensors that every Wan transformer has too, and no image encoder has beside such a marker."""

_MAX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class CheckpointContents:
    """The tensors of a transformer by their names without a prefix, and the names of all that is not its."""

    transformer: Mapping[str, StoredTensor]
    left_out: tuple[str, ...]

    @property
    def left_out_sentence(self) -> str:
        """Say how many tensors are left out, and of which parts."""
        count = len(self.left_out)
        tensors = "1 tensor is" if count == 1 else f"{count} tensors are"
        return f"holds more than a transformer; {tensors} left out: {_by_part(self.left_out)}."


def read_contents(path: Path) -> CheckpointContents:
    """Read which tensors of ``path``, a file, an index or a folder, are the transformer's. Headers only.

    The transformer's tensors may have any prefix, such as ``model.diffusion_model.`` or ``dit.``. Beside one
    with a prefix, every tensor without it is left out; beside one without, those of the parts that ComfyUI
    and diffusers name.

    Raises ``WeightsError`` for truncated files, for other formats and where there is not one transformer.
    """
    stored = _stored(path)
    prefixes = _prefixes(stored)
    if len(prefixes) > 1 and "" not in prefixes:
        raise WeightsError(f"{path} holds {len(prefixes)} transformers: {', '.join(prefixes)}; keep one.")
    if prefixes:
        prefix = prefixes[0]
        taken = [name for name in stored if _is_transformers(name, prefix)]
        others = stored.keys() - taken
        return CheckpointContents(
            {name.removeprefix(prefix): stored[name] for name in taken},
            tuple(sorted(name for name in others if name.split(".")[-1] not in REMARKS)),
        )
    if any(".lora_" in name for name in stored):
        raise WeightsError(f"{path} is a LoRA: it holds no {_MARKER}.")
    there = f" but {len(stored)} others: {_by_part(stored)}" if stored else " and nothing else"
    raise WeightsError(f"{path} is not a Wan transformer: it holds no {_MARKER},{there}.")


def _prefixes(names: Collection[str]) -> list[str]:
    """Return the prefixes of the transformers among ``names``, sorted: the empty one first."""
    found = {
        name.removesuffix(_MARKER)
        for name in names
        if name == _MARKER or (name.endswith(f".{_MARKER}") and name.split(".")[0] not in _PARTS)
    }
    in_block = {
        prefix for prefix in found if any(name.startswith(f"{prefix}{_FIRST_BLOCK}") for name in names)
    }
    return sorted(in_block or found & {""})


def _stored(path: Path) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for file in weight_files(path):
        for tensor in stored_tensors(file):
            if tensor.name in found:
                raise WeightsError(f"{path} holds {tensor.name} in two files; name the one to take.")
            found[tensor.name] = tensor
    return found


def _is_transformers(name: str, prefix: str) -> bool:
    return name.startswith(prefix) if prefix else name.split(".")[0] not in _PARTS


def _by_part(names: Iterable[str]) -> str:
    """Count tensors by the first component of their names: ``text_encoders (text encoder, 242), …``."""
    counts = Counter(name.split(".")[0] for name in sorted(names)).most_common()
    shown = [
        f"{first} ({_PARTS[first]}, {count})" if first in _PARTS else f"{first} ({count})"
        for first, count in counts[:_MAX_SHOWN]
    ]
    return ", ".join(shown) + (f" and {len(counts) - _MAX_SHOWN} more" if len(counts) > _MAX_SHOWN else "")
