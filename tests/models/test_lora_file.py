"""LoRA files: every key convention is read as the same LoRA, and no key is skipped silently."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import LoraFault, WeightsError
from models.lora.file import Lora, read_lora
from models.lora.key import LoraKey

from .checkpoints import small, transformer
from .lora_files import CONVENTIONS, DIFFUSERS, random_products, save_products

IN_BLOCKS = [
    *[f"{attn}.{part}" for attn in ("self_attn", "cross_attn") for part in ("q", "k", "v", "o")],
    *[f"{attn}.norm_{part}" for attn in ("self_attn", "cross_attn") for part in ("q", "k")],
    "cross_attn.k_img",
    "cross_attn.v_img",
    "cross_attn.norm_k_img",
    "norm3",
    "ffn.0",
    "ffn.2",
]
ORIGINAL_MODULES = [
    *[f"blocks.{index}.{part}" for index in (0, 11) for part in IN_BLOCKS],
    *[f"vace_blocks.3.{part}" for part in [*IN_BLOCKS, "before_proj", "after_proj"] if "img" not in part],
    "patch_embedding",
    "vace_patch_embedding",
    "text_embedding.0",
    "text_embedding.2",
    "time_embedding.0",
    "time_embedding.2",
    "time_projection.1",
    "head.head",
    *[f"img_emb.proj.{index}" for index in (0, 1, 3, 4)],
]


def save(file: Path, tensors: dict[str, Tensor], **options: Any) -> Path:
    save_file(tensors, file, **options)
    return file


def product(lora: Lora, name: str) -> Tensor:
    of = lora.products[name]
    return of.scale * of.up @ of.down


@pytest.mark.parametrize("module", ORIGINAL_MODULES)
def test_the_original_names_are_those_that_diffusers_converts(module: str) -> None:
    (converted,) = convert_wan_transformer_to_diffusers({f"{module}.weight": torch.zeros(1)})
    expected = LoraKey(converted.removesuffix(".weight"), "weight")
    assert LoraKey.parse(f"diffusion_model.{module}.diff") == expected
    assert LoraKey.parse(f"lora_unet_{module.replace('.', '_')}.diff") == expected


@pytest.mark.parametrize("variant", ["wan2.1-flf2v-14b", "wan2.1-vace-1.3b"])
def test_everything_in_a_transformer_can_be_named_as_in_diffusers(variant: str) -> None:
    for name, _ in transformer(small(variant)).named_parameters():
        module = name.removesuffix(".weight").removesuffix(".bias")
        assert LoraKey.parse(f"transformer.{module}.diff") == LoraKey(module, "weight")


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("diffusion_model.blocks.7.diff_m", "blocks.7.scale_shift_table"),
        ("blocks.7.modulation.diff", "blocks.7.scale_shift_table"),
        ("diffusion_model.head.diff_m", "scale_shift_table"),
        ("head.modulation.diff", "scale_shift_table"),
        ("img_emb.emb_pos.diff", "condition_embedder.image_embedder.pos_embed"),
    ],
)
def test_tables_can_be_changed_too(key: str, table: str, tmp_path: Path) -> None:
    lora = read_lora(save(tmp_path / "lora.safetensors", {key: torch.ones(1, 2, 3)}))
    assert list(lora.differences) == [table]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_says_the_same(convention: str, tmp_path: Path) -> None:
    products = random_products(transformer(small("wan2.1-t2v-1.3b")))
    factor = save_products(tmp_path / "lora.safetensors", convention, products)
    lora = read_lora(tmp_path / "lora.safetensors")
    assert not lora.differences
    assert set(lora.products) == {f"{module}.weight" for module in DIFFUSERS}
    for module, (down, up) in products.items():
        torch.testing.assert_close(product(lora, f"{module}.weight"), factor * up @ down)


def test_comfyui_files_are_read_as_diffusers_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_products(file, "comfyui", random_products(transformer(small("wan2.1-t2v-1.3b"))))
    # diffusers does not take an alpha of what is outside the blocks
    tensors = {key: tensor for key, tensor in load_file(file).items() if ".blocks." in key}
    lora = read_lora(save(file, tensors))
    converted = _convert_non_diffusers_wan_lora_to_diffusers(tensors)
    assert len(lora.products) == len(converted) / 2 == 6
    for name in lora.products:
        module = name.removesuffix(".weight")
        up, down = (converted[f"transformer.{module}.lora_{side}.weight"] for side in "BA")
        torch.testing.assert_close(product(lora, name), up @ down)


def test_a_difference_of_a_bias_stands_for_itself_and_one_of_peft_is_scaled(tmp_path: Path) -> None:
    matrices = {"lora_A.weight": torch.ones(2, 4), "lora_B.weight": torch.ones(5, 2)}
    tensors = {f"blocks.0.attn1.to_q.{end}": tensor for end, tensor in matrices.items()}
    tensors["blocks.0.attn1.to_q.alpha"] = torch.tensor([6.0])
    for end, factor in (("diff_b", 1.0), ("lora_B.bias", 3.0)):
        bias = {f"blocks.0.attn1.to_q.{end}": torch.arange(5.0)}
        lora = read_lora(save(tmp_path / "lora.safetensors", tensors | bias))
        assert torch.equal(lora.differences["blocks.0.attn1.to_q.bias"], factor * torch.arange(5.0))


PEFT = {"lora_alpha": 12, "alpha_pattern": {"attn1.to_q": 3, "^blocks.0.attn1.to_k": 9}}


@pytest.mark.parametrize("where", ["in the file", "beside it"])
@pytest.mark.parametrize(("stabilised", "scales"), [(False, (0.75, 2.25, 3.0)), (True, (1.5, 4.5, 6.0))])
def test_settings_of_peft_decide_the_scale(
    tmp_path: Path, where: str, stabilised: bool, scales: tuple[float, ...]
) -> None:
    tensors = {
        f"base_model.model.blocks.0.attn1.{name}.lora_{side}.weight": torch.ones(4, 4)
        for name in ("to_q", "to_k", "to_v")
        for side in "AB"
    }
    settings = PEFT | {"use_rslora": stabilised}
    file, metadata = tmp_path / "adapter_model.safetensors", {}
    if where == "in the file":
        prefixed = {f"transformer.{name}": value for name, value in settings.items()}
        metadata = {"lora_adapter_metadata": json.dumps(prefixed)}
    else:
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    lora = read_lora(save(file, tensors, metadata=metadata))
    names = [f"blocks.0.attn1.{name}.weight" for name in ("to_q", "to_k", "to_v")]
    assert tuple(lora.products[name].scale for name in names) == scales


DOWN, UP = torch.ones(2, 4), torch.ones(4, 2)
Q = "blocks.0.attn1.to_q"
FAULTS: list[tuple[dict[str, Tensor], str]] = [
    ({}, "is empty"),
    ({f"{Q}.lora_A.weight": DOWN}, f"lacks the up matrix of {Q}"),
    ({f"{Q}.lora_B.weight": UP}, f"lacks the down matrix of {Q}"),
    ({f"{Q}.alpha": torch.tensor(1.0)}, f"lacks the down matrix of {Q}"),
    ({f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": torch.ones(4, 3)}, "do not fit each other: 2 and 3"),
    ({f"{Q}.lora_A.weight": DOWN[0], f"{Q}.lora_B.weight": UP}, "a down matrix .* is no matrix"),
    (
        {f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": UP, f"{Q}.alpha": torch.tensor(torch.nan)},
        "an alpha .* is not a finite number",
    ),
    ({f"{Q}.diff": torch.ones(2, 2, dtype=torch.int8)}, "numbers of type I8"),
    ({f"{Q}.diff": DOWN, f"diffusion_model.{Q}.diff": DOWN.clone()}, f"has the weight of {Q} twice"),
    (
        {
            **{f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": UP},
            **{f"{Q}.lora_B.bias": torch.ones(4), f"{Q}.diff_b": torch.ones(4)},
        },
        f"has the bias of {Q} twice",
    ),
    ({f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_magnitude_vector": UP}, "lora_magnitude_vector"),
    ({f"{Q}.lokr_w1": DOWN}, "lokr_w1"),
    ({"transformer.blocks.0.attn9.to_q.lora_A.weight": DOWN}, "attn9"),
    ({"double_blocks.0.img_attn.lora_A.weight": DOWN}, "double_blocks"),
    ({f"{Q}.weight": DOWN}, "of no convention"),
    ({"lora_te1_text_model_encoder.lora_down.weight": DOWN}, "changes a text encoder"),
    ({"text_encoder.layers.0.lora_A.weight": DOWN}, "changes a text encoder"),
]


@pytest.mark.parametrize(("tensors", "said"), FAULTS)
def test_a_key_that_cannot_be_applied_is_refused(
    tensors: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    with pytest.raises(LoraFault, match=said):
        read_lora(save(tmp_path / "lora.safetensors", tensors))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('{"transformer.use_dora": true}', "DoRA"),
        ('{"transformer.lora_alpha": "much"}', "not a number"),
        ('{"transformer.alpha_pattern": {"(a+)+b": 1}}', "no name"),
        ('{"transformer.alpha_pattern": [1]}', "cannot be read"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_settings_of_peft_that_cannot_be_followed_are_refused(
    settings: str, said: str, tmp_path: Path
) -> None:
    tensors = {f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": UP}
    file = save(tmp_path / "lora.safetensors", tensors, metadata={"lora_adapter_metadata": settings})
    with pytest.raises(LoraFault, match=said):
        read_lora(file)


def test_only_a_whole_safetensors_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    with pytest.raises(WeightsError, match="is missing"):
        read_lora(file)
    file.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        read_lora(file)
    save(file, {f"{Q}.diff": DOWN})
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="is cut short"):
        read_lora(file)
