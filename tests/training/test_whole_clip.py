"""The VAE in training computes the numbers of diffusers', and so of the engine."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from models.demo.architecture import build_vae
from training.vae import FIRST_LOG_VARIANCE, edges, initialise
from training.whole_clip import WholeClipVae


def wan21() -> Any:
    return AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1)


@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("build", [build_vae, wan21])
@torch.no_grad()
def test_a_whole_clip_has_the_numbers_of_one_frame_after_the_other(build: Any, frames: int) -> None:
    torch.manual_seed(0)
    vae = build().eval()
    video = torch.rand(2, 3, frames, 32, 32) * 2 - 1
    mean = vae.encode(video).latent_dist.mean
    decoded = vae.decode(mean).sample
    whole = WholeClipVae(vae)
    torch.testing.assert_close(whole.moments(video)[0], mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.decoded(mean).clamp(-1, 1), decoded, atol=1e-5, rtol=0)


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    vae = build_vae()
    whole = WholeClipVae(vae)
    mean, log_variance = whole.moments(torch.rand(1, 3, 9, 32, 32) * 2 - 1)
    (whole.decoded(mean).square().mean() + log_variance.mean()).backward()
    without = [name for name, weight in vae.named_parameters() if weight.grad is None]
    assert without == []


@torch.no_grad()
def test_at_first_the_latents_are_narrow_and_a_still_clip_stays_still() -> None:
    torch.manual_seed(0)
    vae = build_vae()
    initialise(vae)
    whole = WholeClipVae(vae)
    still = (torch.rand(1, 3, 1, 32, 32) * 2 - 1).expand(-1, -1, 9, -1, -1)
    mean, log_variance = whole.moments(still)
    assert log_variance.unique().tolist() == [FIRST_LOG_VARIANCE]
    frames = whole.decoded(mean[:, :, -1:].expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(
        frames[:, :, 5:], frames[:, :, 5:6].expand(-1, -1, 4, -1, -1), atol=1e-5, rtol=0
    )


def test_an_error_that_blurs_edges_costs_more_than_one_that_does_not() -> None:
    step = torch.zeros(1, 3, 1, 8, 8)
    step[..., 4:] = 1.0
    blurred = step.clone()
    blurred[..., 3], blurred[..., 4] = 0.25, 0.75
    assert edges(blurred - step) > 0
    assert edges(torch.full_like(step, 0.25)) == 0
