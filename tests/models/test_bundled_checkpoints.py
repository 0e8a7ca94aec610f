"""A checkpoint that bundles other parts with a transformer: the transformer is taken, the rest is told."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.engine import EngineSettings
from models.errors import WeightsError
from models.loading import load_engine
from models.memory import check
from models.weights.checkpoint_contents import read_contents

from .checkpoints import base_folders, small
from .test_single_file import (
    T2V,
    Tensors,
    latents,
    scaled_as_one,
    tensors_of,
    wan_names,
    without_transformers,
)

COMFYUI = "model.diffusion_model."

BUNDLED: Tensors = {
    "first_stage_model.conv1.weight": torch.zeros(2, 2),
    "vae.decoder.head.0.gamma": torch.zeros(2),
    "cond_stage_model.umt5xxl.transformer.shared.weight": torch.zeros(2, 2, dtype=torch.int8),
    "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2),
    "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.scale_weight": torch.ones(3),
    "text_encoders.umt5xxl.spiece_model": torch.zeros(9, dtype=torch.uint8),
    "text_encoders.umt5xxl.transformer.scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    "clip_vision.vision_model.embeddings.patch_embedding.weight": torch.zeros(2, 3, 2, 2),
    "model_ema.num_updates": torch.zeros((), dtype=torch.int32),
    "model_sampling.sigmas": torch.zeros(4),
}
TOLD = (
    "holds more than a transformer; 9 tensors are left out: text_encoders (text encoder, 3), "
    "clip_vision (image encoder, 1), cond_stage_model (text encoder, 1), first_stage_model (VAE, 1), "
    "model_ema (moving average of the weights, 1), model_sampling (sampling constants, 1), vae (VAE, 1)."
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model, with all its weights."""
    return base_folders(tmp_path_factory.mktemp("whole"))(small(T2V))


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", ["", COMFYUI, "transformer.", "pipe.dit."])
@pytest.mark.parametrize("names", [wan_names, lambda tensors: tensors], ids=["wan", "diffusers"])
def test_the_transformer_is_taken_and_the_rest_told(
    whole: Path,
    tmp_path: Path,
    prefix: str,
    names: Callable[[Tensors], Tensors],
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone, bundled = tmp_path / "alone.safetensors", tmp_path / "bundled.safetensors"
    tensors = prefixed(names(tensors_of(whole)), prefix)
    save_file(tensors, alone)
    save_file(tensors | BUNDLED, bundled)
    bare = without_transformers(whole, tmp_path / "bare")
    with caplog.at_level(logging.WARNING, "models.weights"):
        expected = latents(T2V, bare, transformer=alone)
        assert not caplog.records
        assert torch.equal(latents(T2V, bare, transformer=bundled), expected)
    assert [record.getMessage() for record in caplog.records] == [f"The checkpoint {bundled} {TOLD}"]


def test_a_quantised_text_encoder_does_not_bear_on_the_transformer(whole: Path, tmp_path: Path) -> None:
    encoder = {"text_encoders.t5.q.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}
    tensors = scaled_as_one(wan_names(tensors_of(whole)))
    save_file(tensors, tmp_path / "alone.safetensors")
    save_file(tensors | encoder, tmp_path / "bundled.safetensors")
    bare = without_transformers(whole, tmp_path / "bare")
    alone, bundled = (
        latents(T2V, bare, transformer=tmp_path / f"{name}.safetensors") for name in ("alone", "bundled")
    )
    assert torch.equal(alone, bundled)


@pytest.mark.parametrize("prefix", ["", COMFYUI])
def test_tensors_that_no_part_explains_are_refused_without_a_prefix_and_told_with_one(
    whole: Path, tmp_path: Path, prefix: str
) -> None:
    file = tmp_path / "file.safetensors"
    save_file(prefixed(wan_names(tensors_of(whole)), prefix) | {"voice.conv": torch.zeros(1)}, file)
    if prefix:
        sentence = read_contents(file).left_out_sentence
        assert sentence == "holds more than a transformer; 1 tensor is left out: voice (1)."
    else:
        with pytest.raises(WeightsError, match=r"has 1 tensors that are none of .*, such as voice\.conv\."):
            load_engine(EngineSettings(small(T2V), whole, transformer=file))


def test_of_two_transformers_in_one_file_none_is_chosen(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    tensors = wan_names(tensors_of(whole))
    low = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(prefixed(tensors, "high.") | prefixed(low, "low."), file)
    with pytest.raises(WeightsError, match=r"holds 2 transformers: high\., low\.; keep one\.$"):
        load_engine(EngineSettings(small(T2V), whole, transformer=file))


def test_a_bundled_part_takes_no_memory(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.safetensors"
    encoder = {"text_encoders.t5.shared.weight": torch.zeros(4_000_000)}
    save_file(prefixed(wan_names(tensors_of(whole)), COMFYUI) | encoder, file)
    free = sum(at.stat().st_size for at in whole.rglob("*.safetensors")) + 1_000_000
    monkeypatch.setattr(check, "free_bytes", lambda device: free)
    load_engine(EngineSettings(small(T2V), whole, transformer=file))


NOT_TRANSFORMERS: list[tuple[dict[str, Tensor], str]] = [
    (
        BUNDLED,
        "holds no patch_embedding.weight, but 10 others: text_encoders (text encoder, 4), "
        "clip_vision (image encoder, 1), cond_stage_model (text encoder, 1), first_stage_model (VAE, 1), ",
    ),
    (
        {"encoder.conv1.weight": torch.zeros(1), "decoder.conv1.weight": torch.zeros(1)},
        "holds no patch_embedding.weight, but 2 others: decoder (1), encoder (1).",
    ),
    ({}, "holds no patch_embedding.weight, and nothing else."),
]


@pytest.mark.parametrize(("tensors", "found"), NOT_TRANSFORMERS, ids=["bundle", "vae", "empty"])
def test_a_file_without_a_transformer_is_refused_with_what_it_holds(
    whole: Path, tmp_path: Path, tensors: Tensors, found: str
) -> None:
    file = tmp_path / "file.safetensors"
    save_file(tensors, file)
    with pytest.raises(WeightsError) as caught:
        load_engine(EngineSettings(small(T2V), whole, transformer=file))
    assert str(caught.value).startswith(f"{file} is not a Wan transformer: it {found}")
