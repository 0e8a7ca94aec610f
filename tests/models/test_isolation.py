"""Requests share no state: a run leaves no trace in another, and a seed decides every bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.engine import GenerationRequest
from models.errors import InvalidRequest, ModelError
from models.transformer.denoiser import Denoiser

from .conftest import REQUEST, SMALL, Model, build_model, picture, remade

IMAGE = picture(REQUEST.width, REQUEST.height)
OTHER = replace(REQUEST, prompt="a blue bird", negative_prompt="", seed=8, guidance_scale=2.0, steps=3)


def test_a_seed_gives_the_same_bits_again(expanding_model: Model) -> None:
    assert torch.equal(expanding_model.latents(REQUEST), expanding_model.latents(REQUEST))


def test_another_seed_gives_other_noise(expanding_model: Model) -> None:
    engine = expanding_model.engine
    noises = [engine.prepare(replace(REQUEST, seed=seed)).latents for seed in (3, 4, -1, 2**64 - 2)]
    assert len({noise.sum().item() for noise in noises}) == 4


def test_the_noise_is_that_of_the_cpu_generator_in_float32(expanding_model: Model) -> None:
    latents = expanding_model.engine.prepare(REQUEST).latents
    expected = torch.randn((1, 16, 3, 6, 10), generator=torch.Generator("cpu").manual_seed(REQUEST.seed))
    assert torch.equal(latents, expected)


def test_the_global_random_state_is_neither_read_nor_moved(expanding_model: Model) -> None:
    torch.manual_seed(1)
    one = expanding_model.latents(REQUEST)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(expanding_model.latents(REQUEST), one)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("first", [replace(OTHER, image=IMAGE), OTHER])
def test_an_earlier_run_leaves_no_trace_in_a_video(first: GenerationRequest) -> None:
    model = build_model(expand_timesteps=True)
    alone = build_model(expand_timesteps=True).frames(REQUEST)
    model.frames(first)
    assert np.array_equal(model.frames(REQUEST), alone)


def test_two_runs_step_by_step_in_turn_are_each_as_alone(expanding_model: Model) -> None:
    engine = expanding_model.engine
    requests = [replace(OTHER, image=IMAGE), REQUEST]
    alone = [expanding_model.latents(request) for request in requests]
    runs = [engine.prepare(request) for request in requests]
    while any(run.step < run.total_steps for run in runs):
        for run in runs:
            if run.step < run.total_steps:
                engine.denoise_step(run)
    for run, expected in zip(runs, alone, strict=True):
        assert torch.equal(run.latents, expected)


def test_decoding_twice_gives_the_same_frames(expanding_model: Model) -> None:
    run = expanding_model.engine.prepare(REQUEST)
    while run.step < run.total_steps:
        expanding_model.engine.denoise_step(run)
    once, again = (np.concatenate(list(expanding_model.engine.decode(run))) for _ in range(2))
    assert np.array_equal(once, again)


def test_the_picture_of_a_request_is_not_written_to(expanding_model: Model) -> None:
    image = IMAGE.copy()
    image.flags.writeable = False
    expanding_model.latents(replace(REQUEST, image=image))
    assert np.array_equal(image, IMAGE)


def test_a_distilled_model_takes_one_forward_a_step_whatever_the_guidance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model(expand_timesteps=False, distilled=True)
    plain = model.latents(replace(REQUEST, guidance_scale=1.0))
    assert torch.equal(model.latents(replace(REQUEST, guidance_scale=9.0)), plain)
    assert model.engine.prepare(REQUEST).solver.schedule.sigmas == pytest.approx((1, 0.9375, 5 / 6, 0.625, 0))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"width": 50}, "width"),
        ({"height": 0}, "height"),
        ({"num_frames": 8}, "num_frames"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": -3}, "num_frames"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"flow_shift": 0.0}, "flow_shift"),
        ({"flow_shift": float("nan")}, "flow_shift"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"seed": 2**64}, "seed"),
        ({"image": picture(16, 16)}, "image"),
        ({"image": picture(80, 48)[..., :1]}, "image"),
        ({"image": picture(80, 48).astype(np.float32)}, "image"),
    ],
)
def test_an_impossible_request_is_refused_by_the_name_of_its_field(
    expanding_model: Model, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        expanding_model.engine.prepare(replace(REQUEST, **change))
    assert caught.value.field == field


def test_an_image_is_refused_by_a_model_that_takes_none(expanding_model: Model) -> None:
    limited = remade(expanding_model.engine, variant=replace(SMALL, tasks=frozenset({"t2v"})))
    with pytest.raises(InvalidRequest) as caught:
        limited.prepare(replace(REQUEST, image=IMAGE))
    assert caught.value.field == "image"


def test_a_failure_inside_torch_is_a_model_error_and_the_engine_stays_usable(
    expanding_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("/secret/path is broken")

    alone = expanding_model.latents(REQUEST)
    run = expanding_model.engine.prepare(REQUEST)
    with monkeypatch.context() as patch:
        patch.setattr(Denoiser, "__call__", broken)
        with pytest.raises(ModelError) as caught:
            expanding_model.engine.denoise_step(run)
    assert "/" not in str(caught.value)
    assert run.step == 0
    assert torch.equal(expanding_model.latents(REQUEST), alone)
