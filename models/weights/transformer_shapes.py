"""Names and shapes of a transformer's parameters, counted from its variant. Imports no torch."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from models.variants import Variant

Shape: TypeAlias = tuple[int, ...]

IMAGE_DIM = 1280
"""Channels of an image token of CLIP ViT-H/14."""
_TIME_SINUSOIDS = 256


@lru_cache
def transformer_shapes(variant: Variant) -> Mapping[str, Shape]:
    """Return each parameter's shape by its diffusers name, the same for both experts of a model."""
    return MappingProxyType(dict(_parameters(variant)))


def _parameters(variant: Variant) -> Iterator[tuple[str, Shape]]:
    dim, patch = variant.dim, (1, variant.patch, variant.patch)
    yield from _weights("patch_embedding", dim, variant.input_channels, *patch)
    yield from _condition(variant)
    for index in range(variant.layers):
        yield from _block(f"blocks.{index}", variant)
        if variant.image_tokens:
            yield from _weights(f"blocks.{index}.attn2.add_k_proj", dim, dim)
            yield from _weights(f"blocks.{index}.attn2.add_v_proj", dim, dim)
            yield f"blocks.{index}.attn2.norm_added_k.weight", (dim,)
    if variant.control_blocks:
        yield from _weights("vace_patch_embedding", dim, variant.control_channels, *patch)
        yield from _weights("vace_blocks.0.proj_in", dim, dim)
    for index in range(variant.control_blocks):
        yield from _block(f"vace_blocks.{index}", variant)
        yield from _weights(f"vace_blocks.{index}.proj_out", dim, dim)
    yield from _weights("proj_out", variant.latent_channels * variant.patch**2, dim)
    yield "scale_shift_table", (1, 2, dim)


def _condition(variant: Variant) -> Iterator[tuple[str, Shape]]:
    dim, embedder = variant.dim, "condition_embedder"
    yield from _weights(f"{embedder}.time_embedder.linear_1", dim, _TIME_SINUSOIDS)
    yield from _weights(f"{embedder}.time_embedder.linear_2", dim, dim)
    yield from _weights(f"{embedder}.time_proj", 6 * dim, dim)
    yield from _weights(f"{embedder}.text_embedder.linear_1", dim, variant.text_dim)
    yield from _weights(f"{embedder}.text_embedder.linear_2", dim, dim)
    if variant.image_tokens:
        image = f"{embedder}.image_embedder"
        yield from _weights(f"{image}.norm1", IMAGE_DIM)
        yield from _weights(f"{image}.ff.net.0.proj", IMAGE_DIM, IMAGE_DIM)
        yield from _weights(f"{image}.ff.net.2", dim, IMAGE_DIM)
        yield from _weights(f"{image}.norm2", dim)
        if "i2v" not in variant.tasks:  # position embeddings that distinguish a first picture from a last one
            yield f"{image}.pos_embed", (1, variant.image_tokens, IMAGE_DIM)


def _block(block: str, variant: Variant) -> Iterator[tuple[str, Shape]]:
    dim = variant.dim
    for attention in ("attn1", "attn2"):
        for linear in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _weights(f"{block}.{attention}.{linear}", dim, dim)
        for norm in ("norm_q", "norm_k"):
            yield f"{block}.{attention}.{norm}.weight", (dim,)
    yield from _weights(f"{block}.norm2", dim)
    yield from _weights(f"{block}.ffn.net.0.proj", variant.ffn_dim, dim)
    yield from _weights(f"{block}.ffn.net.2", dim, variant.ffn_dim)
    yield f"{block}.scale_shift_table", (1, 6, dim)


def _weights(module: str, out: int, *inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{module}.weight", (out, *inputs)
    yield f"{module}.bias", (out,)
