"""Names of a transformer's modules in the original Wan (Wan-Video/Wan2.1, ``wan/modules``), and in diffusers.

Imports no torch.
"""

import re

IN_BLOCK = {
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
"""Modules of a block: the name in the original Wan, and in diffusers."""

OUTSIDE_BLOCKS = {
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
"""The same for modules outside the blocks."""

_BLOCK = re.compile(r"((?:vace_)?blocks\.\d+\.)(.+)")


def diffusers_name(name: str) -> str:
    """Return the name of a parameter in diffusers, by either name; unchanged if neither convention has it."""
    inside = _BLOCK.fullmatch(name)
    block, rest = inside.groups() if inside else ("", name)
    names = IN_BLOCK if inside else OUTSIDE_BLOCKS
    if rest in names:  # a table, which is a parameter by itself
        return block + names[rest]
    module, _, parameter = rest.rpartition(".")
    return f"{block}{names[module]}.{parameter}" if module in names else name
