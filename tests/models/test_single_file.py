"""A transformer from a single file, in any of its forms, makes the video of the folder it was made from."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.engine import EngineSettings, GenerationRequest
from models.loading import load_engine
from models.variants import VARIANTS

from .checkpoints import base_folders, small
from .conftest import REQUEST, Model, picture

Tensors = dict[str, Tensor]

WAN_PARTS = {
    "patch_embedding": "patch_embedding",
    "vace_patch_embedding": "vace_patch_embedding",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
}
WAN_BLOCK_PARTS = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn1.norm_q": "self_attn.norm_q",
    "attn1.norm_k": "self_attn.norm_k",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.norm_q": "cross_attn.norm_q",
    "attn2.norm_k": "cross_attn.norm_k",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
    "proj_in": "before_proj",
    "proj_out": "after_proj",
}
"""Diffusers' names, and those of the Wan repositories (Wan-Video/Wan2.1: ``wan/modules/model.py``)."""

T2V, TWO, FLF2V = "wan2.1-t2v-1.3b", "wan2.2-t2v-a14b", "wan2.1-flf2v-14b"
FAMILY = [T2V, "wan2.1-i2v-14b-480p", FLF2V, "wan2.1-vace-1.3b", TWO, "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"]


def wan_name(name: str) -> str:
    block, part, leaf = re.fullmatch(r"((?:vace_)?blocks\.\d+\.)?(.*?)(\.weight|\.bias)?", name).groups()  # type: ignore[union-attr]
    return f"{block}{WAN_BLOCK_PARTS[part]}{leaf or ''}" if block else f"{WAN_PARTS[part]}{leaf or ''}"


def wan_names(tensors: Tensors, prefix: str = "") -> Tensors:
    return {prefix + wan_name(name): tensor for name, tensor in tensors.items()}


FILES = ["diffusion_pytorch_model.safetensors"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of variants, with all their weights."""
    folders = base_folders(tmp_path_factory.mktemp("whole"))
    return lambda name: folders(small(name))


@pytest.fixture
def bare(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Folders of variants without the weights of their transformers."""
    return lambda name: without_transformers(whole(name), tmp_path / "bare")


def without_transformers(whole: Path, bare: Path) -> Path:
    """A copy of the folder without the weights of its transformers."""
    return Path(
        shutil.copytree(whole, bare, ignore=lambda at, _: FILES if "transformer" in Path(at).name else [])
    )


def tensors_of(folder: Path, part: str = "transformer") -> Tensors:
    return load_file(folder / part / FILES[0])


def request(name: str) -> GenerationRequest:
    """Return a request for a short video with the least input that the variant takes."""
    first, last = (picture(96, 64, seed) for seed in (1, 2))
    pictures: dict[str, Any] = {}
    if "t2v" not in VARIANTS[name].tasks:
        pictures["image"] = first
        if "i2v" not in VARIANTS[name].tasks:
            pictures["last_image"] = last
    return replace(REQUEST, width=96, height=64, steps=2, **pictures)


def latents(name: str, folder: Path, **settings: Any) -> Tensor:
    engine = load_engine(EngineSettings(small(name), folder, **settings))
    for denoiser in engine.parts.denoisers:
        for parameter in denoiser.transformer.parameters():
            # Weights are mapped from their file. Where they begin in memory decides which instructions the
            # CPU takes, and so the last bits of a sum.
            parameter.data = parameter.data.clone()
    return Model(engine, engine.parts.text, None).latents(request(name))


@pytest.mark.parametrize("name", FAMILY)
def test_a_file_with_the_names_of_wan_makes_the_same_video(
    whole: Callable[[str], Path], bare: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    given = {}
    for part in ("transformer", "transformer_2"):
        if (whole(name) / part).exists():
            given[part] = tmp_path / f"{part}.safetensors"
            save_file(wan_names(tensors_of(whole(name), part)), given[part])
    assert torch.equal(latents(name, bare(name), **given), latents(name, whole(name)))


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "model."])
@pytest.mark.parametrize("names", [wan_names, lambda tensors: tensors])
def test_a_prefix_is_taken_off(
    whole: Callable[[str], Path],
    bare: Callable[[str], Path],
    tmp_path: Path,
    prefix: str,
    names: Callable[[Tensors], Tensors],
) -> None:
    file = tmp_path / "file.safetensors"
    save_file({prefix + key: tensor for key, tensor in names(tensors_of(whole(T2V))).items()}, file)
    assert torch.equal(latents(T2V, bare(T2V), transformer=file), latents(T2V, whole(T2V)))


def test_lower_precision_is_rounded_as_the_folder_is(
    whole: Callable[[str], Path], bare: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "file.safetensors"
    save_file(wan_names(tensors_of(whole(T2V))), file)
    there, here = (
        latents(T2V, folder, dtype="bfloat16", **given)
        for folder, given in ((whole(T2V), {}), (bare(T2V), {"transformer": file}))
    )
    assert torch.equal(here, there)


@pytest.mark.slow
def test_each_expert_takes_its_own_file(
    whole: Callable[[str], Path], bare: Callable[[str], Path], tmp_path: Path
) -> None:
    high, low = tmp_path / "high.safetensors", tmp_path / "low.safetensors"
    save_file(tensors_of(whole(TWO), "transformer"), high)
    save_file(tensors_of(whole(TWO), "transformer_2"), low)
    swapped = latents(TWO, bare(TWO), transformer=low, transformer_2=high)
    assert not torch.equal(swapped, latents(TWO, whole(TWO)))
    assert torch.equal(latents(TWO, whole(TWO), transformer_2=low), latents(TWO, whole(TWO)))


def split(tensors: Tensors, folder: Path) -> Path:
    """Write two shards and their index; return the path of the index."""
    folder.mkdir()
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    index = folder / "file.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: s for s, held in shards.items() for name in held}}))
    return index


def test_shards_are_put_together(
    whole: Callable[[str], Path], bare: Callable[[str], Path], tmp_path: Path
) -> None:
    index = split(scaled_by_rows(wan_names(tensors_of(whole(T2V)))), tmp_path / "shards")
    folder = bare(T2V)
    indexed, by_folder = (latents(T2V, folder, transformer=path) for path in (index, index.parent))
    save_file(dequantised(tensors_of(whole(T2V)), scaled_by_rows), tmp_path / "file.safetensors")
    assert torch.equal(indexed, latents(T2V, folder, transformer=tmp_path / "file.safetensors"))
    assert torch.equal(by_folder, indexed)
    index.unlink()
    assert torch.equal(latents(T2V, folder, transformer=index.parent), indexed)


FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of the 8-bit format."""


def scaled_by_rows(tensors: Tensors) -> Tensors:
    """Quantise as LightX2V does: the linear layers of the blocks, with a scale for each row."""
    stored = dict(tensors)
    for name, tensor in tensors.items():
        if re.search(r"blocks\.\d+\..*(attn|ffn).*\.weight", name) and tensor.ndim == 2:
            scale = tensor.abs().amax(dim=1, keepdim=True) / LARGEST
            stored[name] = (tensor / scale).to(FP8)
            stored[f"{name}_scale"] = scale
    return stored


def scaled_as_one(tensors: Tensors) -> Tensors:
    """Quantise as ComfyUI does: one scale for a tensor, marks for its loader, all under a prefix."""
    stored = {}
    for name, tensor in tensors.items():
        stored[name] = tensor
        if re.search(r"blocks\.\d+\..*(attn|ffn).*\.weight", name) and tensor.ndim == 2:
            scale = tensor.abs().max() / LARGEST
            stored[name] = (tensor / scale).to(FP8)
            module = name.removesuffix(".weight")
            stored |= {f"{module}.scale_weight": scale, f"{module}.scale_input": torch.tensor(1.0)}
    stored["scaled_fp8"] = torch.zeros(2, dtype=FP8)
    return {f"model.diffusion_model.{name}": tensor for name, tensor in stored.items()}


def dequantised(tensors: Tensors, quantised: Callable[[Tensors], Tensors]) -> Tensors:
    """Return the diffusers tensors of a quantised form, dequantised row by row."""
    stored = {name.removeprefix("model.diffusion_model."): t for name, t in quantised(tensors).items()}
    plain = {}
    for name in tensors:
        scale = stored.get(f"{name}_scale", stored.get(f"{name.removesuffix('.weight')}.scale_weight"))
        plain[name] = stored[name].float()
        if scale is not None:
            scales = scale.flatten().expand(len(plain[name])).tolist()
            rows = zip(plain[name], scales, strict=True)
            plain[name] = torch.stack([row * row_scale for row, row_scale in rows])
    return plain


@pytest.mark.parametrize("quantised", [scaled_by_rows, scaled_as_one])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scaled_fp8_is_multiplied_out(
    whole: Callable[[str], Path],
    bare: Callable[[str], Path],
    tmp_path: Path,
    quantised: Callable[[Tensors], Tensors],
    dtype: str,
) -> None:
    tensors, folder = tensors_of(whole(T2V)), bare(T2V)
    save_file(quantised(wan_names(tensors)), tmp_path / "file.safetensors")
    here = latents(T2V, folder, dtype=dtype, transformer=tmp_path / "file.safetensors")
    save_file(dequantised(tensors, quantised), folder / "transformer" / FILES[0], metadata={"format": "pt"})
    assert torch.equal(here, latents(T2V, folder, dtype=dtype))
    assert not torch.equal(here, latents(T2V, whole(T2V), dtype=dtype))


def test_a_scale_may_be_a_plain_list_of_the_rows(
    whole: Callable[[str], Path], bare: Callable[[str], Path], tmp_path: Path
) -> None:
    stored, folder = scaled_by_rows(tensors_of(whole(T2V))), bare(T2V)
    save_file(stored, tmp_path / "columns.safetensors")
    save_file(
        {n: t.flatten() if "_scale" in n else t for n, t in stored.items()}, tmp_path / "list.safetensors"
    )
    columns, rows = (
        latents(T2V, folder, transformer=tmp_path / f"{n}.safetensors") for n in ("columns", "list")
    )
    assert torch.equal(columns, rows)


def test_fp8_without_scales_counts_as_it_stands(
    whole: Callable[[str], Path], bare: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors, folder = tensors_of(whole(T2V)), bare(T2V)
    low = {name: tensor.to(FP8) for name, tensor in tensors.items()}
    save_file(low, tmp_path / "low.safetensors")
    save_file({name: tensor.float() for name, tensor in low.items()}, tmp_path / "full.safetensors")
    there, here = (latents(T2V, folder, transformer=tmp_path / f"{n}.safetensors") for n in ("full", "low"))
    assert torch.equal(here, there)
