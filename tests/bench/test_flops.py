"""The operations that ``bench.flops`` counts are those that torch counts while the engine runs."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import flops
from models.transformer.denoiser import Denoiser
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS, Variant
from testbed.random_engine import RandomModel, autoencoder_of

SIZE = (96, 64, 21)


def counted(work: Any) -> int:
    # torch counts the matrix products of this kernel, but not CPU's flash attention
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-vace-1.3b", "wan2.2-i2v-a14b"])
def test_a_forward_pass_has_the_counted_operations(name: str) -> None:
    variant = replace(
        VARIANTS[name],
        layers=2,
        heads=2,
        ffn_dim=512,
        text_dim=32,
        control_blocks=min(VARIANTS[name].control_blocks, 1),
    )
    denoiser = Denoiser(RandomModel(variant, torch.device("cpu"), torch.float32).transformer)
    width, height, num_frames = SIZE
    grid = (variant.latent_frames(num_frames), height // 8, width // 8)
    latents = torch.randn(1, variant.input_channels, *grid)
    control = torch.randn(1, variant.control_channels, *grid) if variant.control_blocks else None
    with torch.inference_mode():
        keys = denoiser.text(torch.randn(512, 32))
        rotation = denoiser.rotation(latents)
    found = counted(lambda: denoiser(latents, torch.full((1,), 500.0), keys, rotation, control))
    assert flops.forward(variant, *SIZE).total == pytest.approx(found, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"])
def test_a_decode_has_the_counted_operations(name: str) -> None:
    variant: Variant = replace(VARIANTS[name], vae_dim=8, vae_encoder_dim=8)
    vae = StreamingVae(autoencoder_of(variant).eval().requires_grad_(False), chunk_pixels=1)
    width, height, num_frames = SIZE
    stride = variant.spatial_stride
    latents = torch.randn(
        1, variant.latent_channels, variant.latent_frames(num_frames), height // stride, width // stride
    )
    found = counted(lambda: list(vae.decode(latents)))
    assert flops.decode(variant, *SIZE) == pytest.approx(found, rel=0.01)


def test_the_14b_s_step_costs_what_is_published() -> None:
    one = flops.forward(VARIANTS["wan2.1-t2v-14b"], 832, 480, 81)
    assert one.linear == pytest.approx(0.78e15, rel=0.01)
    assert one.attention == pytest.approx(0.89e15, rel=0.01)


def test_operations_are_counted_without_torch() -> None:
    code = "import sys, bench.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
