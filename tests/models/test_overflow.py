"""A VAE that decodes in a dtype which may overflow, and a sturdier one for when it does.

float32 stands in for float16 here, and float64 for bfloat16.
"""

import logging
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from models.engine import EngineSettings
from models.errors import TuningError, WeightsError
from models.loading import load_engine
from models.memory import check
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS
from models.weights.safetensors_header import stored_tensors

from .test_vae import noise, wan21

LOUD = 1e18


def late_overflow(height: int = 2) -> tuple[Any, torch.Tensor]:
    """Return a VAE and latents whose values within overflow in float32 from the third latent frame on."""
    vae, latents = wan21(), noise(1, 8, 4, height, 3)
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(LOUD)
    latents[:, :, 2:] *= 1e22
    return vae, latents


def test_a_video_that_overflows_goes_on_in_the_sturdier_dtype(caplog: pytest.LogCaptureFixture) -> None:
    vae, latents = late_overflow()
    alone = torch.cat(list(StreamingVae(vae, chunk_pixels=1).decode(latents)))
    assert alone[:5].isfinite().all()
    assert alone[5:9].isnan().any()
    chunks = list(StreamingVae(vae, chunk_pixels=1, sturdy=torch.float64).decode(latents))
    assert [(len(chunk), chunk.dtype) for chunk in chunks] == [
        (1, torch.float32),
        (4, torch.float32),
        (4, torch.float64),
        (4, torch.float64),
    ]
    expected = torch.cat(list(StreamingVae(vae.double()).decode(latents)))
    assert expected.std() > 0.02
    torch.testing.assert_close(torch.cat([chunk.double() for chunk in chunks]), expected, atol=1e-4, rtol=0)
    assert "overflows in torch.float32" in caplog.text


def test_a_video_that_does_not_overflow_is_decoded_once(caplog: pytest.LogCaptureFixture) -> None:
    vae, latents = wan21(), noise(1, 8, 3, 2, 3)
    plain = list(StreamingVae(vae, chunk_pixels=1).decode(latents))
    careful = StreamingVae(vae, chunk_pixels=1, sturdy=torch.float64)
    with caplog.at_level(logging.WARNING):
        assert all(map(torch.equal, careful.decode(latents), plain))
    assert not caplog.text
    assert careful.encode(torch.zeros(1, 3, 1, 16, 16)).isfinite().all()
    assert {buffer.dtype for buffer in careful.encoder.buffers()} == {torch.float64}


@pytest.mark.slow
def test_float16_is_nearer_to_float32_than_bfloat16_is(demo_weights: Path) -> None:
    demo = VARIANTS["demo"]
    latents = noise(1, demo.latent_channels, 2, 4, 4)

    def decoded(dtype: str, **options: object) -> torch.Tensor:
        engine = load_engine(EngineSettings(demo, demo_weights, dtype=dtype, options=options))
        return torch.cat(list(engine.parts.vae.decode(latents))).float()

    exact = decoded("float32")
    errors = [
        (decoded("bfloat16", **options) - exact).abs().mean() for options in ({}, {"vae_float16": True})
    ]
    assert errors[1] < errors[0] / 3


def test_float16_takes_the_place_of_bfloat16_alone(demo_weights: Path) -> None:
    settings = EngineSettings(VARIANTS["demo"], demo_weights, dtype="float32", options={"vae_float16": True})
    with pytest.raises(TuningError, match="vae_float16"):
        load_engine(settings)


def test_both_decoders_are_counted_with_the_weights(
    demo_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineSettings(VARIANTS["demo"], demo_weights, options={"vae_float16": True})
    sizes = {
        f"{part}.{tensor.name}": 2 * prod(tensor.shape)
        for part in ("transformer", "text_encoder", "vae")
        for file in (demo_weights / part).glob("*.safetensors")
        for tensor in stored_tensors(file)
    }
    decoder = sum(size for name, size in sizes.items() if name.startswith(("vae.decoder", "vae.post_quant")))
    needed = sum(sizes.values()) + decoder
    monkeypatch.setattr(check, "free_bytes", lambda _: needed)
    check.check_weights(demo_weights, settings, torch.device("cpu"), torch.bfloat16)
    monkeypatch.setattr(check, "free_bytes", lambda _: needed - 1)
    with pytest.raises(WeightsError, match="are free"):
        check.check_weights(demo_weights, settings, torch.device("cpu"), torch.bfloat16)
