"""The shapes counted from a variant are those of diffusers' transformer."""

from math import prod

import pytest
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

from models.memory.estimate import transformer_parameters
from models.variants import VARIANTS
from models.weights.transformer_shapes import IMAGE_DIM, transformer_shapes


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.distilled])
def test_every_parameter_is_there_in_its_shape(name: str) -> None:
    variant = VARIANTS[name]
    control = {}
    if variant.control_blocks:
        stride = variant.layers // variant.control_blocks
        control = {
            "vace_layers": list(range(0, variant.layers, stride)),
            "vace_in_channels": variant.control_channels,
        }
    with init_empty_weights():
        model = (WanVACETransformer3DModel if control else WanTransformer3DModel)(
            patch_size=(1, variant.patch, variant.patch),
            num_attention_heads=variant.heads,
            attention_head_dim=variant.head_dim,
            in_channels=variant.input_channels,
            out_channels=variant.latent_channels,
            text_dim=variant.text_dim,
            ffn_dim=variant.ffn_dim,
            num_layers=variant.layers,
            image_dim=IMAGE_DIM if variant.image_tokens else None,
            added_kv_proj_dim=variant.dim if variant.image_tokens else None,
            pos_embed_seq_len=variant.image_tokens if "i2v" not in variant.tasks else None,
            **control,
        )
    shapes = transformer_shapes(variant)
    assert shapes == {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert sum(map(prod, shapes.values())) == transformer_parameters(variant)
