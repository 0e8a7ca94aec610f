"""The demo model: the same folder from the same seed, and videos that are something to look at."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.demo.recipe import make_demo_model
from models.engine import Engine, EngineSettings, Frames, GenerationRequest
from models.fit import fit, frames_for
from models.generate import generate
from models.loading import load_engine
from models.variants import VARIANTS

DEMO = VARIANTS["demo"]
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_demo_model"
REQUEST = GenerationRequest(
    prompt="a red cat runs on the beach",
    negative_prompt=DEMO.negative_prompt,
    width=DEMO.width,
    height=DEMO.height,
    num_frames=17,
    fps=DEMO.fps,
    steps=DEMO.steps,
    guidance_scale=DEMO.guidance_scale,
    flow_shift=DEMO.flow_shift,
    seed=0,
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def engine(demo_weights: Path) -> Engine:
    return load_engine(EngineSettings(DEMO, demo_weights))


def video(engine: Engine, request: GenerationRequest) -> Frames:
    return np.concatenate(list(generate(engine, request)))


def test_a_seed_gives_the_same_folder_byte_for_byte(demo_weights: Path, tmp_path: Path) -> None:
    assert make_demo_model(tmp_path / "again")
    assert files(tmp_path / "again") == files(demo_weights)


def test_another_seed_gives_other_weights(demo_weights: Path, tmp_path: Path) -> None:
    make_demo_model(tmp_path / "other", seed=1)
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert files(tmp_path / "other")[name] != files(demo_weights)[name]


def test_a_folder_that_is_there_is_left_alone(demo_weights: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_weights.rglob("*")}
    assert not make_demo_model(demo_weights, seed=99)
    assert {path: path.stat().st_mtime_ns for path in demo_weights.rglob("*")} == before


def test_half_a_folder_is_made_anew_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "demo" / "vae").mkdir(parents=True)
    assert make_demo_model(tmp_path / "demo")
    assert (tmp_path / "demo" / "model_index.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_the_script_makes_the_folder_and_then_finds_it(demo_weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "demo")]
    subprocess.run(command, check=True, capture_output=True)
    assert files(tmp_path / "demo") == files(demo_weights)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "already" in said


def test_a_usual_request_is_shrunk_to_what_two_cores_can_do() -> None:
    fitted = fit(DEMO, 832, 480, frames_for(DEMO.fps, 5))
    assert (fitted.width, fitted.height, fitted.num_frames) == (112, 64, 81)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_video_has_contrast_colour_and_motion(engine: Engine, seed: int) -> None:
    frames = video(engine, replace(REQUEST, seed=seed)).astype(float)
    assert 40 < frames.mean() < 215
    assert frames.std() > 20
    assert np.mean((frames < 3) | (frames > 252)) < 0.3
    assert np.abs(frames - frames.mean(axis=-1, keepdims=True)).mean() > 5
    assert np.abs(frames[-1] - frames[0]).mean() > 5


@pytest.mark.parametrize("other", ["a blue bird flies over snow", "两只猫在打拳", "xqzt", ""])
def test_another_prompt_is_visibly_another_video(engine: Engine, other: str) -> None:
    one, another = (
        video(engine, request).astype(float) for request in (REQUEST, replace(REQUEST, prompt=other))
    )
    assert np.abs(one - another).mean() > 5
