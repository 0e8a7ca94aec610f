"""The engine makes diffusers' video: same weights, seed and settings, same latents and frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.engine import GenerationRequest
from models.transformer.denoiser import Denoiser

from .conftest import REQUEST, Model, picture, remade

TOLERANCE = 1e-4
IMAGE = picture(REQUEST.width, REQUEST.height)


def assert_same_latents(model: Model, request: GenerationRequest) -> None:
    expected = model.reference(request, "latent")
    assert expected.std() > 0.05
    torch.testing.assert_close(model.latents(request), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_text_to_video_on_a_plain_model_is_that_of_diffusers(
    plain_model: Model, steps: int, guidance_scale: float
) -> None:
    assert_same_latents(plain_model, replace(REQUEST, steps=steps, guidance_scale=guidance_scale))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_text_to_video_with_a_timestep_per_token_is_that_of_diffusers(
    expanding_model: Model, steps: int, guidance_scale: float
) -> None:
    assert_same_latents(expanding_model, replace(REQUEST, steps=steps, guidance_scale=guidance_scale))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_image_to_video_is_that_of_diffusers(
    expanding_model: Model, steps: int, guidance_scale: float
) -> None:
    assert_same_latents(
        expanding_model, replace(REQUEST, steps=steps, guidance_scale=guidance_scale, image=IMAGE)
    )


@pytest.mark.parametrize("image", [None, IMAGE])
def test_frames_differ_by_at_most_one_level(expanding_model: Model, image: np.ndarray | None) -> None:
    request = replace(REQUEST, image=image)
    expected = expanding_model.reference(request, "np")[0] * 255
    assert np.abs(expanding_model.frames(request) - expected).max() <= 1.0
    assert expected.std() > 1.0


@pytest.mark.parametrize(("width", "height", "num_frames"), [(16, 16, 1), (48, 16, 5), (16, 112, 13)])
def test_a_video_of_any_size_is_that_of_diffusers(
    expanding_model: Model, width: int, height: int, num_frames: int
) -> None:
    request = replace(REQUEST, width=width, height=height, num_frames=num_frames)
    assert_same_latents(expanding_model, request)
    assert_same_latents(expanding_model, replace(request, image=picture(width, height)))


@pytest.mark.parametrize("flow_shift", [1.0, 3.0, 8.0])
def test_a_video_at_any_flow_shift_is_that_of_diffusers(plain_model: Model, flow_shift: float) -> None:
    assert_same_latents(plain_model, replace(REQUEST, flow_shift=flow_shift))


@pytest.mark.parametrize(
    ("prompt", "negative_prompt"),
    [
        ("", ""),
        ("cat " * 600, "blurry"),
        ("一只红色的猫在海滩上奔跑", "色调艳丽，过曝"),
        ("the cat&amp;amp;the   dog\n", "cafÃ©"),
    ],
)
def test_the_video_of_any_prompt_is_that_of_diffusers(
    plain_model: Model, prompt: str, negative_prompt: str
) -> None:
    assert_same_latents(plain_model, replace(REQUEST, prompt=prompt, negative_prompt=negative_prompt))


def test_guidance_in_two_forwards_is_that_of_diffusers(expanding_model: Model) -> None:
    apart = replace(expanding_model, engine=remade(expanding_model.engine, batched_tokens=0))
    assert_same_latents(apart, replace(REQUEST, image=IMAGE))


def test_a_prompt_steers_the_video(plain_model: Model) -> None:
    guided = replace(REQUEST, guidance_scale=8.0)
    one, other = plain_model.latents(guided), plain_model.latents(replace(guided, prompt="blue bird"))
    assert (one - other).abs().max() > 100 * TOLERANCE


def test_lower_precision_follows_diffusers_in_lower_precision(plain_model: Model) -> None:
    transformer = type(plain_model.pipeline.transformer).from_config(plain_model.pipeline.transformer.config)
    transformer.load_state_dict(plain_model.pipeline.transformer.state_dict())
    transformer = transformer.to(torch.bfloat16).eval()
    embeddings = torch.randn(9, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    latents = torch.randn(1, 16, 3, 6, 10, generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([500.0])
    denoiser = Denoiser(transformer)
    with torch.inference_mode():
        filled = torch.cat([embeddings, embeddings.new_zeros(503, 32)])[None]
        expected = transformer(latents.to(torch.bfloat16), timestep, filled, return_dict=False)[0].float()
        actual = denoiser(latents, timestep, denoiser.text(embeddings), denoiser.rotation(latents)).float()
    assert (actual - expected).norm() < 0.01 * expected.norm()
