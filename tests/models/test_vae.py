"""The streaming VAE against diffusers', in both of its forms, with the convolutions of CPUs and of CUDA."""

import copy
import logging
import weakref
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import nn

from models.kernels.pixel_operations import EAGER_PIXELS
from models.parallel.mesh import Mesh
from models.vae import decoder
from models.vae.causal_conv import ConvForm, enlarging_padding, enlarging_weight
from models.vae.channel_norm import ChannelNorm
from models.vae.encoder import Encoding
from models.vae.history import History
from models.vae.look_back import LookBackConv
from models.vae.pending_sum import PendingSum
from models.vae.streaming_vae import StreamingVae
from models.vae.strips import Strips
from models.vae.volumes import VolumeConv

TOLERANCE = 1e-4
VOLUMES: ConvForm = partial(VolumeConv, operations=EAGER_PIXELS)
"""As on a CUDA device, with the kernels' counterparts in plain torch."""
MEAN, DEVIATION = [0.1 * i for i in range(-4, 4)], [0.5 + 0.25 * i for i in range(8)]


def randomised(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Randomise the norms' gains and biases, which start at one and zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in vae.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                parameter + 0.2 * noise if parameter.std() == 0 or parameter.ndim == 1 else parameter
            )
    return vae.eval()


def wan21() -> AutoencoderKLWan:
    torch.manual_seed(1)
    return randomised(
        AutoencoderKLWan(base_dim=8, z_dim=8, num_res_blocks=2, latents_mean=MEAN, latents_std=DEVIATION)
    )


def wan22() -> AutoencoderKLWan:
    torch.manual_seed(2)
    return randomised(
        AutoencoderKLWan(
            base_dim=8,
            decoder_base_dim=12,
            z_dim=8,
            num_res_blocks=2,
            temperal_downsample=[False, True, True],
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
            latents_mean=MEAN,
            latents_std=DEVIATION,
        )
    )


@pytest.fixture(params=[LookBackConv, VOLUMES], ids=["look-back", "volumes"])
def conv(request: pytest.FixtureRequest) -> ConvForm:
    form: ConvForm = request.param
    return form


@pytest.fixture(scope="module", params=[wan21, wan22])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    made: AutoencoderKLWan = request.param()
    return made


def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(MEAN).view(1, -1, 1, 1, 1), torch.tensor(DEVIATION).view(1, -1, 1, 1, 1)


def decoded_by_diffusers(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    mean, deviation = statistics()
    with torch.inference_mode():
        video: torch.Tensor = vae.decode(latents * deviation + mean, return_dict=False)[0]
        return video


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@cache
def noise_decoded_by_diffusers(vae: Any, frames: int, height: int, width: int) -> torch.Tensor:
    return decoded_by_diffusers(vae, noise(1, 8, frames, height, width))


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 4, 6), (2, 3, 5), (3, 1, 1), (6, 5, 2)])
@pytest.mark.parametrize("latents_per_chunk", [1, 2, 100])
def test_decode_is_that_of_diffusers(
    vae: Any, conv: ConvForm, frames: int, height: int, width: int, latents_per_chunk: int
) -> None:
    latents = noise(1, 8, frames, height, width)
    expected = noise_decoded_by_diffusers(vae, frames, height, width)
    assert expected.std() > 0.02
    stride = vae.config.scale_factor_spatial
    chunk_pixels = latents_per_chunk * height * width * stride**2 * 4
    streaming = StreamingVae(vae, chunk_pixels=chunk_pixels, conv=conv)
    actual = torch.cat(list(streaming.decode(latents))).transpose(0, 1)[None]
    assert actual.shape == (1, 3, 4 * (frames - 1) + 1, height * stride, width * stride)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 32), (5, 48, 16), (13, 16, 80)])
def test_encode_is_that_of_diffusers(vae: Any, conv: ConvForm, frames: int, height: int, width: int) -> None:
    video = noise(1, 3, frames, height, width).clamp(-1, 1)
    mean, deviation = statistics()
    with torch.inference_mode():
        expected = (vae.encode(video).latent_dist.mode() - mean) / deviation
    assert expected.std() > 0.01
    for chunk_pixels in (1, 2 * 4 * height * width):
        actual = StreamingVae(vae, chunk_pixels=chunk_pixels, conv=conv).encode(video)
        torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_decodes_by_the_fused_kernels_as_a_cpu_does(
    vae: Any, caplog: pytest.LogCaptureFixture
) -> None:
    latents = noise(1, 8, 6, 5, 7)
    expected = torch.cat(list(StreamingVae(vae).decode(latents)))
    with caplog.at_level(logging.INFO):
        there = StreamingVae(copy.deepcopy(vae).cuda())
    assert "by fused Triton kernels" in caplog.text
    found = torch.cat(list(there.decode(latents.cuda()))).cpu()
    # cuDNN multiplies in TensorFloat-32
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_encodes_by_the_fused_kernels_as_a_cpu_does(vae: Any) -> None:
    video = noise(1, 3, 13, 48, 80).clamp(-1, 1)
    expected = StreamingVae(vae).encode(video)
    found = StreamingVae(copy.deepcopy(vae).cuda()).encode(video).cpu()
    # cuDNN multiplies in TensorFloat-32
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_doubling_the_size_and_convolving_is_one_transposed_convolution() -> None:
    pictures, weight = noise(2, 48, 5, 7), noise(24, 48, 3, 3)

    def enlarged(*tensors: torch.Tensor) -> torch.Tensor:
        pictures, weight = tensors
        return F.conv2d(F.interpolate(pictures, scale_factor=2.0), weight, padding=1)

    def folded(*tensors: torch.Tensor, rows: int = 0) -> torch.Tensor:
        pictures, weight = tensors
        padding = enlarging_padding(rows)
        return F.conv_transpose2d(pictures, enlarging_weight(weight), stride=2, padding=padding)

    exact = enlarged(pictures.double(), weight.double())
    torch.testing.assert_close(folded(pictures.double(), weight.double()), exact)
    with_halo = F.pad(pictures.double(), (0, 0, 1, 1))
    torch.testing.assert_close(folded(with_halo, weight.double(), rows=1), exact)
    # sums of weights are rounded once more
    rounded = (pictures.bfloat16(), weight.bfloat16())
    exact = enlarged(*(part.double() for part in rounded))
    plain, found = ((form(*rounded).double() - exact).norm() / exact.norm() for form in (enlarged, folded))
    assert found < 2 * plain < 0.01


def still(frames: int, *given: int) -> torch.Tensor:
    """Return a video that is gray but for the given frames."""
    video = torch.zeros(1, 3, frames, 16, 32)
    video[:, :, list(given)] = noise(1, 3, len(given), 16, 32).clamp(-1, 1)
    return video


def encoded_in_full(vae: StreamingVae, video: torch.Tensor) -> torch.Tensor:
    """Encode every chunk with every layer, however often the same chunk comes."""
    encode = Encoding(vae.encoder, Strips(Mesh(), video.shape[3] // vae.spatial_stride))
    frames = video[0].transpose(0, 1)
    with torch.inference_mode():
        chunks = [encode(chunk) for chunk in (frames[:1], *frames[1:].split(4))]
    mode = torch.cat(chunks)[:, : vae.z_dim].transpose(0, 1)[None]
    return (mode - vae.mean) / vae.deviation


@pytest.mark.parametrize(
    ("video", "most"),
    [
        (still(81, 0), (3, 5, 7)),
        (still(81), (3, 5, 7)),
        (still(81, 0, 80), (4, 6, 8)),
        (still(81, 0, 30, 31, 32), (6, 10, 14)),
        (still(41, *range(0, 41, 4)), (11, 11, 11)),
    ],
)
def test_a_repeated_frame_is_encoded_once_and_to_the_same_bits(
    vae: Any, conv: ConvForm, monkeypatch: pytest.MonkeyPatch, video: torch.Tensor, most: tuple[int, ...]
) -> None:
    streaming = StreamingVae(vae, chunk_pixels=1, conv=conv)
    expected = encoded_in_full(streaming, video)
    runs = counted_runs(streaming, monkeypatch)
    assert torch.equal(streaming.encode(video), expected)
    # the first layers, which have the largest pictures and so nearly all of the work
    assert all(runs.count(layer) <= count for layer, count in enumerate(most))


def test_latent_frames_are_encoded_together_until_they_repeat(vae: Any, conv: ConvForm) -> None:
    video = still(41, *range(1, 17), 37)
    streaming = StreamingVae(vae, chunk_pixels=3 * 4 * 16 * 32, conv=conv)
    expected = encoded_in_full(streaming, video)
    chunks: list[int] = []
    streaming.encoder.layers[0].register_forward_pre_hook(lambda _, args: chunks.append(len(args[0])))
    torch.testing.assert_close(streaming.encode(video), expected, atol=TOLERANCE, rtol=0)
    # gray comes first with the last that differs, then once more, to settle
    assert chunks == [1, 12, 8, 4, 4]


def counted_runs(vae: StreamingVae, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the encoder's layers, by index, in the order in which they run."""
    runs: list[int] = []
    for index, layer in enumerate(vae.encoder.layers):

        def run(*inputs: Any, index: int = index, forward: Any = layer.forward) -> torch.Tensor:
            runs.append(index)
            output: torch.Tensor = forward(*inputs)
            return output

        monkeypatch.setattr(layer, "forward", run)
    return runs


def test_a_video_is_read_as_it_is_encoded(vae: Any) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def frames() -> Iterator[torch.Tensor]:
        nonlocal most
        for index in range(41):
            frame = torch.full((3, 16, 16), index / 41)
            alive.add(frame)
            yield frame
            del frame
            most = max(most, len(alive))

    StreamingVae(vae, chunk_pixels=1).encode_frames(frames())
    assert most <= 9  # two chunks, of which one is compared with the other


def test_frames_come_out_while_later_ones_are_latents(vae: Any) -> None:
    chunks = StreamingVae(vae, chunk_pixels=1).decode(noise(1, 8, 4, 2, 2))
    assert [len(chunk) for chunk in chunks] == [1, 4, 4, 4]


def test_the_layers_of_the_lowest_resolution_take_many_chunks_at_once(
    vae: Any, conv: ConvForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "CHUNKS_AHEAD", 2)
    streaming, latents = StreamingVae(vae, chunk_pixels=1, conv=conv), noise(1, 8, 5, 2, 3)
    begun: list[int] = []

    def before(_: nn.Module, args: tuple[Any, ...], how: dict[str, bool]) -> None:
        if how["begins"]:
            begun.append(len(args[0]))

    streaming.decoder.register_forward_pre_hook(before, with_kwargs=True)
    chunks = list(streaming.decode(latents))
    assert begun == [2, 2, 1]
    assert [len(chunk) for chunk in chunks] == [1, 4, 4, 4, 4]
    video = torch.cat(chunks).transpose(0, 1)[None]
    torch.testing.assert_close(video, decoded_by_diffusers(vae, latents), atol=TOLERANCE, rtol=0)


def test_the_state_between_chunks_does_not_grow_with_the_video(
    vae: Any, conv: ConvForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = StreamingVae(vae, chunk_pixels=1, conv=conv)
    kept: list[int] = []
    forward: Callable[..., PendingSum] = streaming.decoder.forward

    def counted(x: PendingSum, *histories_and_first: Any, begins: bool) -> PendingSum:
        video = forward(x, *histories_and_first, begins=begins)
        if begins:
            return video
        histories: tuple[History, ...] = histories_and_first[:2]
        tensors = [tensor for history in histories for tensor in history.values()]
        # a view would keep the whole chunk alive
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)
        kept.append(sum(tensor.nbytes for tensor in tensors))
        return video

    monkeypatch.setattr(streaming.decoder, "forward", counted)
    list(streaming.decode(noise(1, 8, 9, 2, 2)))
    assert len(kept) == 9
    assert len(set(kept[1:])) == 1


def test_two_decodes_at_once_do_not_mix(vae: Any) -> None:
    streaming = StreamingVae(vae, chunk_pixels=1)
    one, other = noise(1, 8, 3, 2, 2), noise(1, 8, 3, 2, 2) * -1
    pairs = list(zip(streaming.decode(one), streaming.decode(other), strict=True))
    for side, latents in enumerate((one, other)):
        mixed = torch.cat([pair[side] for pair in pairs])
        torch.testing.assert_close(mixed, torch.cat(list(streaming.decode(latents))), atol=0, rtol=0)


def test_a_pixel_without_any_signal_stays_so(vae: Any) -> None:
    norm = ChannelNorm(vae.decoder.norm_out)
    pixels = torch.zeros(1, vae.config.decoder_base_dim or vae.config.base_dim, 2, 2)
    assert torch.equal(norm(pixels), pixels)
