"""A LoRA made for a sibling of the model is applied as far as it fits, and what is left out is told."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.engine import FusedLora
from models.errors import InvalidRequest, LoraFault
from models.lora.contents import LoraContents, left_out_sentence
from models.lora.file import read_lora
from models.variants import VARIANTS
from models.video_spec import LoraUse
from models.weights.transformer_shapes import transformer_shapes

from .checkpoints import save_checkpoint, small
from .test_lora import ONE, REQUEST_1, TWO, latents, load

DIM = 48
Q = "diffusion_model.blocks.0.self_attn.q"


def product(module: str, out: int = DIM, into: int = DIM) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(module))
    down, up = torch.randn(2, into, generator=generator), torch.randn(out, 2, generator=generator)
    return {f"{module}.lora_down.weight": 0.2 * down, f"{module}.lora_up.weight": 0.2 * up}


FITTING = product(Q) | product("diffusion_model.blocks.1.ffn.0", 2 * DIM)
IMAGE_PARTS = {
    **product("diffusion_model.blocks.0.cross_attn.k_img"),
    "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.ones(DIM),
    "diffusion_model.img_emb.proj.4.diff_b": torch.ones(DIM),
}
TRAINERS_OWN = {
    "__index_timestep_zero__": torch.ones(1),
    "diffusion_model.blocks.0.to_gate_compress.diff": torch.ones(DIM, DIM),
    "text_encoder.layers.0.lora_A.weight": torch.ones(2, 2),
    "num_updates": torch.ones(1, dtype=torch.int64),
}
NO_SUCH_BLOCK = product("diffusion_model.blocks.7.self_attn.q")
SIBLINGS_INPUTS = {"diffusion_model.patch_embedding.diff": torch.ones(DIM, 36, 1, 2, 2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fitting")
    save_checkpoint(small(ONE), root / ONE)
    (root / "loras").mkdir()
    save_file(FITTING, root / "loras" / "fitting.safetensors")
    return root


@pytest.mark.parametrize(
    "more",
    [IMAGE_PARTS, TRAINERS_OWN, NO_SUCH_BLOCK, SIBLINGS_INPUTS],
    ids=["image", "trainer", "block", "in"],
)
def test_what_fits_is_applied_and_the_rest_counted(
    root: Path, tmp_path: Path, more: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_file(FITTING, tmp_path / "fitting.safetensors")
    save_file(FITTING | more, tmp_path / "more.safetensors")
    engine = load(root, ONE, lora_folder=tmp_path)
    expected = latents(engine, REQUEST_1, "fitting")
    assert not torch.equal(expected, latents(engine, REQUEST_1))
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "models.lora"):
        assert torch.equal(latents(engine, REQUEST_1, "more"), expected)
        latents(engine, REQUEST_1, "more")
    (record,) = caplog.records
    assert f"without {len(more)} of its {len(FITTING) + len(more)} tensors" in record.getMessage()
    assert any(name in record.getMessage() for name in more)


def test_a_fused_lora_is_told_at_start(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "distilled.safetensors"
    save_file(FITTING | IMAGE_PARTS, file)
    with caplog.at_level(logging.WARNING, "models.lora"):
        fused = load(root, ONE, fused_loras=(FusedLora(file),))
    (record,) = caplog.records
    assert str(file) in record.getMessage() and "without 4 of its 8 tensors" in record.getMessage()
    alone = load(root, ONE, fused_loras=(FusedLora(root / "loras" / "fitting.safetensors"),))
    assert torch.equal(latents(fused, REQUEST_1), latents(alone, REQUEST_1))


def test_a_bias_of_a_siblings_patch_embedding_still_fits(tmp_path: Path) -> None:
    variant = VARIANTS[ONE]
    shapes = transformer_shapes(variant)
    tensors = {
        "patch_embedding.diff": torch.zeros(variant.dim, 36, 1, 2, 2),
        "patch_embedding.diff_b": torch.zeros(variant.dim),
        "blocks.0.self_attn.q.diff_b": torch.zeros(variant.dim),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors", shapes)
    assert set(lora.differences) == {"patch_embedding.bias", "blocks.0.attn1.to_q.bias"}
    assert lora.left_out == ("patch_embedding.diff",)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_floats_are_read(root: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    eight = {name: tensor.to(dtype) for name, tensor in FITTING.items()}
    save_file(eight, tmp_path / "eight.safetensors")
    save_file({name: tensor.float() for name, tensor in eight.items()}, tmp_path / "full.safetensors")
    engine = load(root, ONE, lora_folder=tmp_path)
    full = latents(engine, REQUEST_1, "full")
    assert torch.equal(latents(engine, REQUEST_1, "eight"), full)
    assert not torch.equal(full, latents(engine, REQUEST_1))


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("by_row", [False, True])
def test_8_bit_numbers_are_multiplied_by_their_scales(
    tmp_path: Path, ending: str, dtype: torch.dtype, by_row: bool
) -> None:
    scaled, full = {"scaled_fp8": torch.zeros(2, dtype=dtype)}, {}
    for name, tensor in product("blocks.1.self_attn.q", 48).items():
        rows = (tensor.shape[0], 1) if by_row else ()
        eight, scale = (tensor * 20).to(dtype), torch.rand(rows) + 0.5
        scaled |= {name: eight, f"{name.removesuffix('.weight')}.{ending}": scale}
        full[name] = eight.float() * scale
    save_file(scaled, tmp_path / "scaled.safetensors")
    save_file(full, tmp_path / "full.safetensors")
    lora, expected = (read_lora(tmp_path / f"{name}.safetensors") for name in ("scaled", "full"))
    assert not lora.left_out and lora.num_tensors == 2
    for name, of in expected.products.items():
        assert torch.equal(lora.products[name].down, of.down) and torch.equal(lora.products[name].up, of.up)


def test_a_scale_that_is_missing_or_of_blocks_is_named(tmp_path: Path) -> None:
    tensors = {n: t.to(torch.float8_e4m3fn) for n, t in product("blocks.1.self_attn.q", 48).items()}
    down, up = tensors
    scale = f"{down.removesuffix('.weight')}.scale_weight"
    for shape, said in (((), f"lacks the scale of {up}"), ((1, 3), f"has a scale {scale} that is no number")):
        save_file(tensors | {scale: torch.ones(shape)}, tmp_path / "lora.safetensors")
        with pytest.raises(LoraFault, match=re.escape(said)):
            LoraContents.read(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_an_alpha_is_a_finite_number_before_the_file_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    file, key = tmp_path / "lora.safetensors", "diffusion_model.blocks.1.self_attn.q.alpha"
    tensors = product("blocks.1.self_attn.q", 48)
    numbers = [torch.finfo(dtype).max, -2.0, 0.0, float("nan"), -float("nan"), float("inf"), -float("inf")]
    for alpha in torch.tensor(numbers, dtype=torch.float64).to(dtype):
        save_file(tensors | {key: alpha.reshape(1)}, file)
        if alpha.double().isfinite():
            assert LoraContents.read(file).num_parameters == sum(t.numel() for t in tensors.values())
            continue
        with pytest.raises(LoraFault, match=r"an alpha of blocks.1.attn1.to_q that is not a finite number"):
            LoraContents.read(file)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (IMAGE_PARTS, "changes no block of this model; it has blocks.0.attn2.add_k_proj.weight"),
        (NO_SUCH_BLOCK | product("head.head", 64), "changes no block of this model; it has blocks.7"),
        (FITTING | product("blocks.1.self_attn.q", 64), "blocks.1.attn1.to_q.weight of 64x48"),
        (FITTING | {"patch_embedding.diff": torch.ones(64, 36, 1, 2, 2)}, "patch_embedding.weight of 64x36"),
    ],
)
def test_what_fits_nowhere_or_is_of_another_width_is_refused(
    root: Path, tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    engine = load(root, ONE, lora_folder=tmp_path)
    with pytest.raises(InvalidRequest, match=said):
        latents(engine, REQUEST_1, "other")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{Q}.dora_scale", "a DoRA"),
        ("base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector.default.weight", "a DoRA"),
        (f"{Q}.lokr_w1", "a LoKr"),
        ("lora_unet_blocks_0_self_attn_q.lokr_w2_a", "a LoKr"),
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "a LoHa"),
        (f"{Q}.hada_t2", "a LoHa"),
        (f"{Q}.oft_blocks", "an OFT"),
        (f"{Q}.lora_mid.weight", "a LoCon with a middle matrix"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "both experts in one file"),
    ],
)
def test_other_kinds_are_called_by_their_names(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / "lora.safetensors"
    save_file(FITTING | {name: torch.ones(2, 2)}, file)
    with pytest.raises(LoraFault, match=kind):
        LoraContents.read(file)


def test_the_sentence_counts_and_names_the_first() -> None:
    one, two = left_out_sentence(["a"], 9), left_out_sentence(["a", "b"], 9)
    assert one == "is applied without 1 of its 9 tensors, which has no place in this model: a."
    assert two == "is applied without 2 of its 9 tensors, which have no place in this model: a is the first."


def test_a_half_that_is_fused_into_both_experts_is_told(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(small(TWO), root / TWO)
    for name in ("style_HIGH_fp16", "style_LOW_fp16", "lone_LOW"):
        save_file(FITTING, tmp_path / f"{name}.safetensors")
    high = FusedLora(tmp_path / "style_HIGH_fp16.safetensors", expert="high_noise")
    with caplog.at_level(logging.WARNING, "models.lora"):
        engine = load(root, TWO, fused_loras=(high,), lora_folder=tmp_path)
        ((_,), (_,)) = engine.parts.loras.choose([LoraUse("style_fp16")])
        assert not caplog.records
        ((), (_,)) = engine.parts.loras.choose([LoraUse("lone_LOW")])
        load(root, TWO, fused_loras=(replace(high, expert="both"),))
    lone, fused = (record.getMessage() for record in caplog.records)
    assert "lone_LOW has a file for the low_noise expert alone" in lone
    assert "is fused into both experts, but its name says high_noise" in fused
