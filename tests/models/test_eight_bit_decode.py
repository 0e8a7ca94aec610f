"""A decode with the convolutions of its two largest resolutions in 8 bits, by plain torch."""

from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.demo.clips import draw
from models.demo.grammar import Scene
from models.errors import TuningError
from models.kernels.eight_bit_conv import convolved, convolved_in_plain_torch, norm_scale, scaled_weight
from models.kernels.operations import FP8, LARGEST
from models.kernels.pixel_operations import EAGER_PIXELS
from models.networks.autoencoder import WanAutoencoder
from models.parallel.mesh import Mesh
from models.speed.fp8 import closeness
from models.speed.tuned_model import TunedModel
from models.tuning import Tuning
from models.vae import eight_bit_conv
from models.vae.causal_conv import channels_last
from models.vae.conv_form import eight_bit_form
from models.vae.eight_bit_conv import EightBitConv, check_eight_bits
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS
from models.weights.carrier import Carrier
from models.weights.stored_module import StoredModule

from .test_overflow import late_overflow
from .test_vae import noise, wan21, wan22

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IN_8_BITS = eight_bit_form(CPU)


def decoded(vae: StreamingVae, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(vae.decode(latents)))


def decibels(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the ratio of the range of −1 … 1 to the error."""
    return 10 * log10(4.0 / float((found - expected).square().mean()))


@pytest.mark.parametrize("form", [wan21, wan22])
def test_the_blocks_of_the_two_largest_resolutions_convolve_in_8_bits(form: Any) -> None:
    decoder = StreamingVae(form(), large=IN_8_BITS).decoder
    convs = [name for name, module in decoder.named_modules() if isinstance(module, EightBitConv)]
    blocks = 2 * 3  # resolutions, and blocks of each
    assert len(convs) == 2 * blocks
    kept = {name: module for name, module in decoder.up.named_modules() if hasattr(module, "inputs")}
    assert not [name for name in convs if not name.startswith("up.")]
    assert any(not isinstance(module, EightBitConv) for module in kept.values())  # those that enlarge


@pytest.mark.parametrize("form", [wan21, wan22])
def test_chunks_go_on_from_frames_in_8_bits(form: Any) -> None:
    latents, vae = noise(1, 8, 4, 3, 5), form()
    whole = decoded(StreamingVae(vae, large=IN_8_BITS), latents)
    in_chunks = decoded(StreamingVae(vae, chunk_pixels=1, large=IN_8_BITS), latents)
    # sums in another order now and then round to another 8-bit value, whose step is a sixteenth of it
    assert closeness(in_chunks, whole).error < 0.02


@pytest.mark.slow
def test_a_clip_is_decoded_nearly_as_by_the_exact_convolutions(demo_weights: Path) -> None:
    frames = draw(Scene("star", "red", "blue", "right"), np.random.default_rng(3))
    clip = torch.from_numpy(frames / 127.5 - 1.0).float().permute(3, 0, 1, 2)[None]
    vae = StoredModule(WanAutoencoder, demo_weights / "vae").load(Carrier(CPU), torch.float32)
    exact = StreamingVae(vae)
    latents = exact.encode(clip)
    expected = decoded(exact, latents)
    found = decibels(decoded(StreamingVae(vae, large=IN_8_BITS), latents), expected)
    assert 55 < found < 70, found


@pytest.mark.parametrize("form", [wan21, wan22])
def test_random_weights_decode_nearly_as_by_the_exact_convolutions(form: Any) -> None:
    latents, vae = noise(1, 8, 2, 4, 5), form()
    expected = decoded(StreamingVae(vae), latents)
    found = decibels(decoded(StreamingVae(vae, large=IN_8_BITS), latents), expected)
    assert 38 < found < 50, found


def test_a_video_that_overflows_goes_on_without_8_bits() -> None:
    vae, latents = late_overflow()
    expected = decoded(StreamingVae(vae.double()), latents)
    vae.float()
    streaming = StreamingVae(vae, chunk_pixels=1, sturdy=torch.float64, large=IN_8_BITS)
    chunks = list(streaming.decode(latents))
    assert [chunk.dtype for chunk in chunks] == [torch.float32] * 2 + [torch.float64] * 2
    torch.testing.assert_close(torch.cat(chunks[2:]), expected[5:], atol=1e-6, rtol=0)
    assert any(isinstance(module, EightBitConv) for module in streaming.decoder.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_is_refused_where_no_kernel_does_it(dtype: torch.dtype) -> None:
    with pytest.raises(TuningError, match="vae_fp8 must be false on a CPU"):
        TunedModel(Tuning(vae_fp8=True), VARIANTS["wan2.1-t2v-1.3b"], CPU, dtype, Mesh())


def test_it_is_refused_where_the_kernels_do_not_run_or_give_other_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(eight_bit_conv, "FUSED_PIXELS", EAGER_PIXELS)
    check_eight_bits(CPU, torch.bfloat16, 16)
    monkeypatch.setattr(eight_bit_conv, "convolved", lambda *given: 2 * convolved_in_plain_torch(*given))
    with pytest.raises(TuningError, match="give other numbers"):
        check_eight_bits(CPU, torch.bfloat16, 16)
    with pytest.raises(TuningError, match=r"do not run: .*CUDA"):
        monkeypatch.undo()
        check_eight_bits(CUDA, torch.bfloat16, 16)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="multiplies 8-bit floats on a CUDA device",
)
@pytest.mark.parametrize("channels", [96, 192, 256])
def test_a_device_convolves_in_8_bits_as_plain_torch_does(channels: int) -> None:
    check_eight_bits(CUDA, torch.bfloat16, channels)
    volume = channels_last(noise(6, channels, 50, 70).cuda() * 40).clamp(-LARGEST, LARGEST).to(FP8)
    weight = scaled_weight(noise(channels, channels, 3, 3, 3).cuda())
    arguments = volume, norm_scale(torch.ones(channels).cuda()), weight, 0, torch.bfloat16
    assert closeness(convolved(*arguments), convolved_in_plain_torch(*arguments)).error < 0.01
