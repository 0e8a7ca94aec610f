"""The linear map from latents to colours, on pictures that it was not fitted to."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from models.vae.preview import LatentColours, clips
from models.vae.streaming_vae import StreamingVae

from .checkpoints import small, vae
from .conftest import DEMO_WEIGHTS


def demo() -> Any:
    """The demo VAE: strides 4·16·16, 16 channels, trained."""
    return AutoencoderKLWan.from_pretrained(DEMO_WEIGHTS / "vae", local_files_only=True)


def wan22() -> Any:
    """A VAE like Wan 2.2's: strides 4·16·16, 48 channels."""
    torch.manual_seed(11)
    return vae(small("wan2.2-ti2v-5b"))


def waves(pixels: int) -> torch.Tensor:
    """Return a moving clip of waves of colour, ``[5, 3, pixels, pixels]``."""
    places = torch.linspace(-3.0, 3.0, pixels)
    t, c, y, x = torch.arange(5.0), torch.arange(3.0), places, places
    turn = 0.2 * t[:, None, None, None] + 2.0 * c[:, None, None] + y[:, None] + 0.7 * x
    return torch.sin(turn)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "least"), [(demo, 0.3), (wan22, 0.3)])
def test_latents_show_the_picture_that_they_are_of(form: Any, least: float) -> None:
    streaming = StreamingVae(form())
    clip = waves(12 * streaming.spatial_stride)
    latents = streaming.encode_frames(clip)
    shown = LatentColours(streaming)(latents) / 127.5 - 1.0
    small_clip = torch.nn.functional.avg_pool2d(clip, streaming.spatial_stride)
    expected = torch.stack([small_clip[0], small_clip[1:].mean(0)]).movedim(1, -1).numpy()
    assert shown.shape == expected.shape
    r2 = 1.0 - np.mean((shown - expected) ** 2) / expected.var()
    assert r2 > least


@pytest.mark.slow
def test_every_fit_is_the_same_and_draws_no_random_number() -> None:
    streaming = StreamingVae(wan22())
    state = torch.get_rng_state()
    latents = torch.randn(1, 48, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    one, other = LatentColours(streaming)(latents), LatentColours(streaming)(latents)
    assert np.array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.std() > 5


def test_the_fit_is_made_of_many_colours_soft_and_hard() -> None:
    drawn = torch.stack(list(clips(16)))
    assert drawn.shape == (16, 5, 3, 16, 16)
    assert drawn.abs().max() <= 1.0
    assert drawn.std() > 0.3
