"""Folders of weights: those that are served, and the one sentence about each that is not."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from safetensors.torch import load_file, save_file

from models.engine import EngineSettings
from models.errors import WeightsError
from models.loading import load_engine
from models.variants import VARIANTS

from .conftest import DEMO_REQUEST as REQUEST
from .conftest import Model, picture

DEMO = VARIANTS["demo"]


@pytest.fixture
def folder(demo_weights: Path, tmp_path: Path) -> Path:
    """A copy of the demo weights, to break."""
    return Path(shutil.copytree(demo_weights, tmp_path / "weights"))


def load(folder: Path, variant: Any = DEMO, **settings: Any) -> Any:
    return load_engine(EngineSettings(variant, folder, **settings))


@pytest.mark.slow
def test_a_loaded_folder_makes_the_video_of_diffusers(demo_weights: Path) -> None:
    engine = load(demo_weights)
    pipeline = WanPipeline.from_pretrained(demo_weights, torch_dtype=torch.float32, local_files_only=True)
    model = Model(engine, engine.parts.text, pipeline)
    for image in (None, picture(REQUEST.width, REQUEST.height)):
        request = replace(REQUEST, image=image)
        latents, frames = model.latents_and_frames(request)
        expected_latents, (expected_frames,) = model.references(request)
        torch.testing.assert_close(latents, expected_latents, atol=1e-4, rtol=0)
        assert np.abs(frames - expected_frames * 255).max() <= 1.0


def test_the_seconds_of_each_part_of_a_load_are_told(
    demo_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "models.loading"):
        load(demo_weights)
    (said,) = (record.getMessage() for record in caplog.records if record.name == "models.loading")
    parts = ("checks and kernels", "transformer", "LoRAs", "speed settings", "VAE", "encoders", "together")
    told = ", ".join(rf"{part} \d+\.\d s" for part in parts)
    assert re.fullmatch(f"demo was loaded: {told}", said)


def test_nothing_is_asked_of_the_network(demo_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    load(demo_weights)


def test_the_distilled_form_runs_on_the_same_folder(demo_weights: Path) -> None:
    engine = load(demo_weights, VARIANTS["demo-distill"])
    assert engine.prepare(REQUEST).total_steps == 4


@pytest.mark.slow
def test_lower_precision_makes_nearly_the_same_video(demo_weights: Path) -> None:
    request = replace(REQUEST, steps=1, guidance_scale=1.0)
    full, half = (
        Model(engine, engine.parts.text, None).frames(request).astype(float)
        for engine in (load(demo_weights), load(demo_weights, dtype="bfloat16"))
    )
    assert np.abs(full - half).mean() < 0.1 * full.std()


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def weights(part: Path) -> Path:
    (file,) = part.glob("*.safetensors")
    return file


def cut(folder: Path) -> None:
    file = weights(folder / "transformer")
    file.write_bytes(file.read_bytes()[:-1])


def cut_in_the_header(folder: Path) -> None:
    file = weights(folder / "transformer")
    file.write_bytes(file.read_bytes()[:50])


def no_safetensors(folder: Path) -> None:
    weights(folder / "vae").write_bytes(b"PK\x03\x04\0\0\x08\x08" + b"\0" * 100)


def only_bin(folder: Path) -> None:
    file = weights(folder / "text_encoder")
    file.rename(file.with_name("pytorch_model.bin"))


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def other_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    AutoencoderKLWan(
        base_dim=4, z_dim=48, num_res_blocks=1, latents_mean=[0.0] * 48, latents_std=[1.0] * 48
    ).save_pretrained(folder / "vae")


def lost_tensor(folder: Path) -> None:
    file = weights(folder / "transformer")
    tensors = load_file(file)
    del tensors["proj_out.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def tensor_of_another_shape(folder: Path) -> None:
    file = weights(folder / "transformer")
    tensors = load_file(file)
    tensors["proj_out.weight"] = torch.zeros(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})


BREAKAGES: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "There is no weights folder"),
    (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
    (lambda f: (f / "model_index.json").write_text("{"), "cannot be read"),
    (lambda f: (f / "model_index.json").write_text("[]"), "not a JSON object"),
    (lambda f: edit(f / "model_index.json", transformer=["diffusers", "FluxModel"]), "FluxModel"),
    (lambda f: edit(f / "model_index.json", vae=None), "vae is missing"),
    (lambda f: edit(f / "model_index.json", expand_timesteps=False), "expand_timesteps"),
    (lambda f: edit(f / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"]), "expert"),
    (lambda f: shutil.rmtree(f / "transformer"), "no folder transformer"),
    (lambda f: shutil.rmtree(f / "tokenizer"), "no folder tokenizer"),
    (lambda f: (f / "tokenizer" / "tokenizer.json").unlink(), "tokenizer"),
    (lambda f: (f / "vae" / "config.json").unlink(), "no vae/config.json"),
    (lambda f: weights(f / "vae").unlink(), "no safetensors file"),
    (only_bin, "no safetensors file"),
    (no_safetensors, "not a safetensors file"),
    (cut, "cut short"),
    (cut_in_the_header, "cut short"),
    (missing_shard, "is missing"),
    (lambda f: edit(f / "transformer" / "config.json", num_layers=30), "number of layers should be 6"),
    (other_vae, "latent channels should be 24, but the folder says 48"),
    (lost_tensor, "lacks 1 tensors"),
    (tensor_of_another_shape, "proj_out.weight"),
]


@pytest.mark.parametrize(("breakage", "said"), BREAKAGES)
def test_a_folder_that_cannot_be_served_is_refused(
    folder: Path, breakage: Callable[[Path], object], said: str
) -> None:
    breakage(folder)
    with pytest.raises(WeightsError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b-distill", "wan2.2-ti2v-5b"])
def test_a_folder_of_another_variant_is_refused(demo_weights: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"is not {name}"):
        load(demo_weights, VARIANTS[name])


def test_an_unknown_precision_is_refused(demo_weights: Path) -> None:
    with pytest.raises(WeightsError, match="dtype"):
        load(demo_weights, dtype="int3")


_LOADED = """
import sys
from pathlib import Path
from models.engine import EngineSettings
from models.loading import load_engine
from models.variants import VARIANTS
load_engine(EngineSettings(VARIANTS["demo"], Path(sys.argv[1])))
print(*sys.modules)
"""
_SLOW = frozenset(
    ("accelerate", "diffusers", "ftfy", "sympy", "torch._dynamo", "torch.distributed.tensor", "transformers")
)


@pytest.mark.slow
def test_a_model_is_loaded_without_what_takes_long_to_import(demo_weights: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", _LOADED, demo_weights], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert "models.networks.transformer" in found
    assert _SLOW.isdisjoint(found)
