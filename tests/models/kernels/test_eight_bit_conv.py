"""The 8-bit convolution, and the volumes that it reads, beside the plain torch that defines their numbers.

Triton's interpreter runs the kernels. The sizes divide neither each other nor a kernel's block.
"""

from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.eight_bit_conv import (
    ScaledWeight,
    convolved_in_plain_torch,
    norm_scale,
    scaled_weight,
)
from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.operations import FP8, LARGEST
from models.kernels.pixel_operations import EAGER_PIXELS, PixelOperations
from models.vae.causal_conv import channels_last, empty_pictures

from .interpreter import Interpreter

DTYPES = [torch.float32, torch.bfloat16]
SCALE = torch.tensor(0.01)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def in_8_bits(*shape: int) -> Tensor:
    return channels_last(torch.randn(shape) / SCALE).clamp(-LARGEST, LARGEST).to(FP8)


def by_kernel(
    volume: Tensor, scale: Tensor, weight: ScaledWeight, halo: int, dtype: torch.dtype, depth: int
) -> Tensor:
    from models.kernels.conv_kernel import Tile, convolve

    tile = Tile(pixels=32, depth=depth)
    return convolve(volume, weight.values, scale, weight.scale, halo, dtype, tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("frames", "inputs", "outputs", "height", "width", "halo", "depth"),
    [
        (1, 20, 40, 5, 7, 0, 32),
        (2, 48, 96, 3, 23, 0, 128),  # 64 output channels and 32
        (1, 16, 200, 6, 11, 1, 64),  # several programs for the output channels
        (3, 8, 3, 1, 1, 0, 32),
    ],
)
def test_the_kernel_convolves_as_plain_torch_does(
    interpreted: Interpreter,
    frames: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    halo: int,
    depth: int,
    dtype: torch.dtype,
) -> None:
    volume = in_8_bits(2 + frames, inputs, height, width)
    weight = scaled_weight(torch.randn(outputs, inputs, 3, 3, 3))
    found = interpreted(by_kernel, volume, SCALE, weight, halo, dtype, depth)
    expected = convolved_in_plain_torch(volume, SCALE, weight, halo, dtype)
    assert (found.shape, found.dtype) == ((frames, outputs, height - 2 * halo, width), dtype)
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), expected.float(), atol=tolerance, rtol=tolerance)
    # the definition once more
    exact = weight.values.float() * weight.scale.view(-1, 1, 1, 1, 1)
    pictures = F.pad(volume.float() * SCALE, (1, 1, 1 - halo, 1 - halo))
    wide = F.conv3d(pictures.transpose(0, 1)[None], exact)[0].transpose(0, 1)
    torch.testing.assert_close(found.float(), wide, atol=tolerance, rtol=tolerance)


def test_a_weight_is_rounded_by_the_range_of_each_output_channel() -> None:
    weight = torch.randn(4, 16, 3, 3, 3) * torch.tensor([1e-3, 1.0, 300.0, 0.0]).view(4, 1, 1, 1, 1)
    values, scale = scaled_weight(weight)
    assert values.is_contiguous(memory_format=torch.channels_last_3d)
    assert values.float().abs().amax(dim=(1, 2, 3, 4)).tolist() == [LARGEST, LARGEST, LARGEST, 0.0]
    by_channel = scale.view(4, 1, 1, 1, 1)
    torch.testing.assert_close(
        values.float() * by_channel, weight, rtol=2**-4, atol=float(scale.max()) * 2**-10
    )


def filled(
    operations: PixelOperations, x: Tensor, gamma: Tensor, before: Tensor | None, scale: Tensor
) -> list[Tensor]:
    x = x.clone()
    volume = empty_pictures((2 + len(x), *x.shape[1:]), x, FP8)
    latest = empty_pictures((2, *x.shape[1:]), x, FP8)
    with torch.inference_mode():
        operations.fill_volume(x, None, None, gamma, before, volume, latest, False, scale)
    return [volume, latest]


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_volume_in_8_bits_is_written_by_the_norm(
    interpreted: Interpreter, dtype: torch.dtype, begins: bool
) -> None:
    x = channels_last(torch.randn(3, 20, 5, 7).to(dtype))
    gamma, before = torch.randn(20).to(dtype), None if begins else in_8_bits(2, 20, 5, 7)
    scale = norm_scale(gamma)
    found = interpreted(filled, FUSED_PIXELS, x, gamma, before, scale)
    expected = filled(EAGER_PIXELS, x, gamma, before, scale)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == FP8
        torch.testing.assert_close(one.float(), other.float(), rtol=2**-3, atol=2**-9)
        assert (one.float() != other.float()).float().mean() < 0.02  # a value between two may go either way
    # what was rounded, once more
    pixels = x.permute(0, 2, 3, 1).float()
    exact = F.silu(F.rms_norm(pixels, (20,), gamma.float())).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        found[0][2:].float() * scale, exact, rtol=2**-4 + 1e-3, atol=float(scale) * 2**-9
    )


def test_nothing_that_is_normed_is_beyond_the_largest_of_8_bits(interpreted: Interpreter) -> None:
    channels = 24
    gamma = torch.randn(channels) * 30
    gamma[3] = 100.0
    # each pixel has one channel alone, the most that it can be: √channels times its gamma
    x = channels_last(torch.eye(channels).view(1, channels, channels, 1) * 7)
    for operations in (FUSED_PIXELS, EAGER_PIXELS):
        run = interpreted if operations is FUSED_PIXELS else lambda function, *given: function(*given)
        volume, _ = run(filled, operations, x, gamma, None, norm_scale(gamma))
        assert volume[2, 3, 3, 0].float() == LARGEST
        assert volume.float().abs().max() == LARGEST
        normed = volume[2, :, :, 0].float().diagonal() * norm_scale(gamma)
        torch.testing.assert_close(normed, F.silu(gamma * sqrt(channels)), rtol=2**-4, atol=0.01)
        # were a bound ever too small, the largest is taken, and what is no number is none
        volume, _ = run(filled, operations, x, gamma, None, norm_scale(gamma) / 8)
        assert volume[2, 3, 3, 0].float() == LARGEST
        broken = x.clone()
        broken[0, :, 5] = float("inf")
        volume, _ = run(filled, operations, broken, gamma, None, norm_scale(gamma))
        assert volume[2, :, 5].float().isnan().all()
        assert volume[2, :, :5].float().isfinite().all()
