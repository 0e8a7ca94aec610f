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

Part: TypeAlias = Literal["down", "up", "up_bias", "alpha", "weight", "bias"]

_BLOCK = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",  # in either order the only norm of a block that has weights
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
    "modulation": "scale_shift_table",
}
"""What a block holds: its name in the original Wan, and in diffusers."""

_OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "vace_patch_embedding": "vace_patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
"""The same for what is in no block."""

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
_ENDING = {part: re.compile(f"(.+){ending}") for ending, part in _ENDINGS.items()}


@dataclass(frozen=True, slots=True)
class LoraKey:
    """What a tensor of a LoRA file is: a part of the change to a module, which is named as in diffusers.

    ``weight`` and ``bias`` are whole differences; the other parts make up a product of two small matrices.
    A table, which is a parameter by itself, counts as a module, and its values as the weight.
    """

    module: str
    part: Part

    @classmethod
    def parse(cls, key: str) -> Self:
        """Raises ``LoraFault``."""
        if _TEXT_ENCODER.match(key):
            raise LoraFault("changes a text encoder; only LoRAs of the transformer are applied.")
        name = _PREFIX.sub("", key, count=1)
        name = re.sub(r"\.diff_m$", ".modulation.diff", name)  # LightX2V's name for it
        for part, ending in _ENDING.items():
            if found := ending.fullmatch(name):
                module = _module(found[1])
                if module is not None:
                    return cls(module, part)
        raise LoraFault(f"has a tensor {key[:120]!r}, which is of no convention that is known for Wan.")


def _flat(names: Mapping[str, str]) -> dict[str, str]:
    """Diffusers' names by either name, with underscores for the dots: so written, the conventions differ in
    names alone."""
    both = [*names.items(), *((name, name) for name in names.values())]
    return {name.replace(".", "_"): diffusers for name, diffusers in both}


_FLAT_BLOCK, _FLAT_OUTSIDE = _flat(_BLOCK), _flat(_OUTSIDE)


def _module(name: str) -> str | None:
    """Diffusers' name of a module under any convention, None for what Wan does not have."""
    flat = name.replace(".", "_")
    if (found := _IN_BLOCK.fullmatch(flat)) is None:
        return _FLAT_OUTSIDE.get(flat)
    blocks, index, inside = found.groups()
    return f"{blocks}.{int(index)}.{_FLAT_BLOCK[inside]}" if inside in _FLAT_BLOCK else None
