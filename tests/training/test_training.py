"""The whole training in small: it can be stopped, and ends in a folder that the engine and diffusers run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline

from models.demo.exam import LORA, settings_of
from models.engine import GenerationRequest
from models.generate import generate
from models.loading import load_engine
from models.variants import VARIANTS
from training.plan import Plan
from training.run import Training

pytestmark = pytest.mark.slow

PLAN = Plan(
    clips=4,
    vae_steps=4,
    vae_batch=2,
    flow_steps=2,
    flow_batch=2,
    student_clips=2,
    student_steps=2,
    scored=1,
    compiled=False,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    said: list[str] = []
    Training(PLAN, folder / "work", folder / "model", said.append).run()
    assert any(line.startswith("flow: step 2 of 2") for line in said)
    return folder


def test_the_folder_is_run_by_the_engine_and_by_diffusers(trained: Path) -> None:
    for variant in (VARIANTS["demo"], VARIANTS["demo-distill"]):
        engine = load_engine(settings_of(variant, trained / "model"))
        request = GenerationRequest.of(variant, variant.example_prompts[0], steps=2, seed=1)
        assert sum(len(frames) for frames in generate(engine, request)) == variant.num_frames
    for pipeline in (WanPipeline, WanImageToVideoPipeline):
        assert pipeline.from_pretrained(trained / "model", local_files_only=True).config.expand_timesteps


def test_a_trained_model_is_examined_and_pictures_of_its_answers_are_drawn(trained: Path) -> None:
    told = json.loads((trained / "work" / "marks.json").read_text())
    assert sorted(told) == ["demo i2v", "demo t2v", "demo-distill i2v", "demo-distill t2v"]
    assert all(0 <= marks["everything"] <= 1 for marks in told.values())
    for name in told:
        assert (trained / "work" / f"{name.replace(' ', '_')}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_makes_the_same_model_also_after_a_stop(trained: Path, tmp_path: Path) -> None:
    short = replace(PLAN, vae_steps=PLAN.vae_steps, flow_steps=1, student_steps=1)
    Training(short, tmp_path / "work", tmp_path / "short", lambda _: None).train()
    (tmp_path / "work" / "student" / "checkpoint.safetensors").unlink()
    (tmp_path / "work" / "student" / "lessons.safetensors").unlink()
    Training(PLAN, tmp_path / "work", tmp_path / "model", lambda _: None).train()
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (trained / "model" / name).read_bytes()
    assert (tmp_path / "model" / LORA).read_bytes() == (trained / "model" / LORA).read_bytes()


def test_a_training_begins_from_the_weights_of_another_model(trained: Path, tmp_path: Path) -> None:
    done = replace(PLAN, start=trained / "model", seed=2, vae_steps=0, flow_steps=0, student_steps=0)
    Training(done, tmp_path / "work", tmp_path / "model", lambda _: None).train()
    weights = "diffusion_pytorch_model.safetensors"
    for file in (f"vae/{weights}", "vae/config.json", f"transformer/{weights}"):  # other clips change nothing
        assert (tmp_path / "model" / file).read_bytes() == (trained / "model" / file).read_bytes()


def test_latents_have_no_mean_and_unit_deviation(trained: Path) -> None:
    config = json.loads((trained / "model" / "vae" / "config.json").read_text())
    assert len(config["latents_mean"]) == len(config["latents_std"]) == VARIANTS["demo"].latent_channels
    assert all(deviation > 0 for deviation in config["latents_std"])
    assert torch.tensor(config["latents_mean"]).abs().sum() > 0
