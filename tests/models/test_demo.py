"""The demo model follows its prompts, from text and from pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import WanPipeline

from models.demo.exam import answers, marks, settings_of
from models.engine import GenerationRequest
from models.fit import fit, frames_for
from models.generate import generate
from models.loading import load_engine
from models.variants import VARIANTS, Variant

DEMO, DISTILLED = VARIANTS["demo"], VARIANTS["demo-distill"]
LIMIT_BYTES = 20e6
PROMPTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("variant", [DISTILLED, DEMO], ids=["4 steps", "20 steps"])
@pytest.mark.parametrize("from_pictures", [False, True], ids=["t2v", "i2v"])
def test_the_demo_model_shows_the_scenes_of_its_prompts(
    demo_weights: Path, variant: Variant, from_pictures: bool
) -> None:
    engine = load_engine(settings_of(variant, demo_weights))
    found = marks(answers(engine, variant, PROMPTS, from_pictures=from_pictures))
    assert found.background >= 0.8 and found.colour >= 0.8 and found.motion >= 0.8, found
    assert found.shape >= 0.6, found
    assert not from_pictures or (found.first_frame or 0.0) >= 0.9, found


@pytest.mark.slow
def test_guidance_and_the_negative_prompt_steer_the_demo_model(demo_weights: Path) -> None:
    engine = load_engine(settings_of(DEMO, demo_weights))
    request = GenerationRequest.of(DEMO, DEMO.example_prompts[0], steps=4, seed=1)
    plain, unguided, steered = (
        np.concatenate(list(generate(engine, each))).astype(float)
        for each in (
            request,
            replace(request, guidance_scale=1.0),
            replace(request, negative_prompt="a red ball on a blue background"),
        )
    )
    assert np.abs(plain - unguided).mean() > 1
    assert np.abs(plain - steered).mean() > 1


def test_the_folder_is_small_and_diffusers_reads_it(demo_weights: Path) -> None:
    assert sum(file.stat().st_size for file in demo_weights.rglob("*") if file.is_file()) <= LIMIT_BYTES
    pipeline = WanPipeline.from_pretrained(demo_weights, local_files_only=True)
    assert pipeline.transformer.config.num_layers == DEMO.layers
    assert pipeline.vae.config.z_dim == DEMO.latent_channels


def test_a_usual_request_is_shrunk_to_the_demo_models_sizes() -> None:
    fitted = fit(DEMO, 832, 480, frames_for(DEMO.fps, 5))
    assert (fitted.width, fitted.height, fitted.num_frames) == (DEMO.width, DEMO.height, DEMO.num_frames)
