"""The names that LoRA files give to what they change, in the key conventions there are for Wan.

A key is a prefix, a module and a part. Modules are named as in diffusers' ``WanTransformer3DModel``, as in
the original Wan (Wan-Video/Wan2.1, ``wan/modules``), or as there with an underscore for each dot (kohya).
Parts are those of peft, of kohya or the whole differences that ComfyUI's extraction and LightX2V write.
Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from models.errors import LoraFault
from models.weights.original_names import IN_BLOCK, OUTSIDE_BLOCKS

Part: TypeAlias = Literal["down", "up", "up_bias", "alpha", "weight", "bias"]

_PREFIX = re.compile(r"^(base_model\.model\.)?(transformer\.|(model\.)?diffusion_model\.|lora_unet_)?")
_TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(lora_te\d?_|text_encoders?(_\d)?\.)")
_IN_BLOCK = re.compile(r"((?:vace_)?blocks)_(\d+)_(.+)")

_ENDINGS: Mapping[str, Part] = {
    r"\.(lora_A(\.default)?|lora_down|lora\.down)\.weight": "down",
    r"\.(lora_B(\.default)?|lora_up|lora\.up)\.weight": "up",
    r"\.lora_B(\.default)?\.bias": "up_bias",
    r"\.alpha": "alpha",
    r"\.diff": "weight",
    r"\.diff_b": "bias",
}
_OTHER_KINDS: Mapping[str, str] = {
    "a DoRA": r"\.(dora_scale|lora_magnitude_vector(\.default)?(\.weight)?)$",
    "a LoKr": r"\.lokr_(w[12](_[ab])?|t2)$",
    "a LoHa": r"\.hada_(w[12]_[ab]|t[12])$",
    "an OFT": r"\.(oft_(blocks|diag)|oft_R(\.default)?(\.weight)?)$",
    "a GLoRA": r"\.(a1|a2|b1|b2)\.weight$",
    "an (IA)³": r"\.(on_input|ia3_l(\.default)?)$",
    "a LoCon with a middle matrix": r"\.lora_mid(\.weight)?$",
}
"""Kinds of adapters, by the ends of the names of tensors that only they have."""

_TABLES = ("scale_shift_table", "pos_embed")
"""Parameters that are not the weight or bias of a module."""

_ENDING = {part: re.compile(f"(.+){ending}") for ending, part in _ENDINGS.items()}


@dataclass(frozen=True, slots=True)
class LoraKey:
    """The part of a change to a module that one tensor of a LoRA file is. Modules have diffusers' names.

    ``weight`` and ``bias`` are whole differences; the other parts make up a product of two small matrices.
    A table, which is a parameter by itself, counts as a module, and its values as the weight.
    """

    module: str
    part: Part

    @classmethod
    def parse(cls, key: str) -> Self | None:
        """Read a tensor's name. Return None for one that no convention has for Wan's transformer."""
        name = _PREFIX.sub("", key, count=1)
        name = re.sub(r"\.diff_m$", ".modulation.diff", name)  # LightX2V's name for it
        for part, ending in _ENDING.items():
            if found := ending.fullmatch(name):
                module = _module(found[1])
                if module is not None:
                    return cls(module, part)
        return None

    @property
    def parameter(self) -> str:
        """The parameter that the part changes, by its name in diffusers."""
        if self.module.endswith(_TABLES):
            return self.module
        return f"{self.module}.bias" if self.part in ("bias", "up_bias") else f"{self.module}.weight"


def changes_text_encoder(key: str) -> bool:
    """Return whether a tensor's name is that of a part of the text encoder's LoRA."""
    return _TEXT_ENCODER.match(key) is not None


def refuse_other_kinds(key: str) -> None:
    """Raise ``LoraFault`` for a tensor without which the others of its file mean something else."""
    for kind, ending in _OTHER_KINDS.items():
        if re.search(ending, key):
            raise LoraFault(f"is {kind}, which is not supported; it has a tensor {key[:120]!r}.")
    if key.startswith("transformer_2."):
        raise LoraFault("holds the LoRAs of both experts in one file; split it into a high and a low one.")


def _flat(names: Mapping[str, str]) -> dict[str, str]:
    """Return diffusers' names by either name. With underscores for dots conventions differ in names alone."""
    both = [*names.items(), *((name, name) for name in names.values())]
    return {name.replace(".", "_"): diffusers for name, diffusers in both}


_FLAT_BLOCK, _FLAT_OUTSIDE = _flat(IN_BLOCK), _flat(OUTSIDE_BLOCKS)


def _module(name: str) -> str | None:
    """Return diffusers' name of a module under any convention, None for a module that Wan does not have."""
    flat = name.replace(".", "_")
    if (found := _IN_BLOCK.fullmatch(flat)) is None:
        return _FLAT_OUTSIDE.get(flat)
    blocks, index, inside = found.groups()
    return f"{blocks}.{int(index)}.{_FLAT_BLOCK[inside]}" if inside in _FLAT_BLOCK else None
