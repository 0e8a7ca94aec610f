"""LoRA files with random numbers, in the conventions that people publish them in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RANK = 3
ALPHA = 6.0

DIFFUSERS = [
    "blocks.0.attn1.to_q",
    "blocks.0.attn1.to_out.0",
    "blocks.1.attn2.to_k",
    "blocks.1.attn2.to_v",
    "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.net.2",
    "condition_embedder.text_embedder.linear_1",
    "condition_embedder.time_embedder.linear_2",
    "condition_embedder.time_proj",
    "proj_out",
]
ORIGINAL = [
    "blocks.0.self_attn.q",
    "blocks.0.self_attn.o",
    "blocks.1.cross_attn.k",
    "blocks.1.cross_attn.v",
    "blocks.0.ffn.0",
    "blocks.1.ffn.2",
    "text_embedding.0",
    "time_embedding.2",
    "time_projection.1",
    "head.head",
]
KOHYA = [
    "blocks_0_self_attn_q",
    "blocks_0_self_attn_o",
    "blocks_1_cross_attn_k",
    "blocks_1_cross_attn_v",
    "blocks_0_ffn_0",
    "blocks_1_ffn_2",
    "text_embedding_0",
    "time_embedding_2",
    "time_projection_1",
    "head_head",
]
"""The modules of ``DIFFUSERS`` in the same order, under each convention's names."""

CONVENTIONS: dict[str, tuple[str, list[str], str, str, bool]] = {
    "diffusers": ("transformer.", DIFFUSERS, "lora_A.weight", "lora_B.weight", False),
    "diffusers without a prefix": ("", DIFFUSERS, "lora_A.weight", "lora_B.weight", False),
    "peft": ("base_model.model.", DIFFUSERS, "lora_A.weight", "lora_B.weight", False),
    "original": ("", ORIGINAL, "lora_down.weight", "lora_up.weight", True),
    "original, peft": (
        "",
        ORIGINAL,
        "lora_A.default.weight",
        "lora_B.default.weight",
        False,
    ),
    "comfyui": ("diffusion_model.", ORIGINAL, "lora_down.weight", "lora_up.weight", True),
    "comfyui, peft": ("diffusion_model.", ORIGINAL, "lora_A.weight", "lora_B.weight", False),
    "kohya": ("lora_unet_", KOHYA, "lora_down.weight", "lora_up.weight", True),
}
"""Prefix, names, the endings of down and up, and whether there is an alpha, by convention."""


def random_products(transformer: Any, seed: int = 1) -> dict[str, tuple[Tensor, Tensor]]:
    """Make random ``down`` and ``up`` for each of ``DIFFUSERS``, of a size that shows in a video."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.15

    shapes = {module: transformer.get_submodule(module).weight.shape for module in DIFFUSERS}
    return {module: (matrix(RANK, into), matrix(out, RANK)) for module, (out, into) in shapes.items()}


def save_products(file: Path, convention: str, products: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """Write the products under a convention's names; return the scale of each."""
    prefix, names, down_ending, up_ending, has_alpha = CONVENTIONS[convention]
    tensors = {}
    for name, (down, up) in zip(names, products.values(), strict=True):
        tensors[f"{prefix}{name}.{down_ending}"] = down
        tensors[f"{prefix}{name}.{up_ending}"] = up
        if has_alpha:
            tensors[f"{prefix}{name}.alpha"] = torch.tensor(ALPHA)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return ALPHA / RANK if has_alpha else 1.0


def add_products(transformer: Any, products: Mapping[str, tuple[Tensor, Tensor]], factor: float) -> None:
    """Add a LoRA's products to the weights, by its definition."""
    with torch.no_grad():
        for module, (down, up) in products.items():
            transformer.get_parameter(f"{module}.weight").add_(factor * up @ down)
