"""Each fused operation of the VAE beside the eager one that defines its numbers, by Triton's interpreter.

The sizes divide neither each other nor a kernel's block.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.averaged import Averaged
from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.pixel_choice import first_difference
from models.kernels.pixel_operations import EAGER_PIXELS
from models.kernels.repeated import Repeated, Spread
from models.pipeline.pixels import converted
from models.pixel_format import PixelFormat
from models.vae.causal_conv import ConvForm
from models.vae.look_back import LookBackConv
from models.vae.streaming_vae import StreamingVae
from models.vae.volumes import VolumeConv

from ..test_vae import wan21
from .interpreter import Interpreter
from .test_kernels import assert_same

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(3, 20, 5, 7), (1, 96, 3, 23), (2, 8, 1, 1)]
"""Frames, channels, height and width."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pictures(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def twos(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, 2.0, dtype=dtype).contiguous(memory_format=torch.channels_last)


def with_border(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return pictures of twos with two frames before and a row on either side of those of this shape."""
    frames, channels, height, width = shape
    return twos(frames + 2, channels, height + 2, width, dtype=dtype)


def inside(larger: Tensor) -> Tensor:
    return larger[2:, :, 1:-1]


def fill_volume(operations: Any, x: Tensor, *terms: Any, past: int, rows: int) -> list[Tensor]:
    """Return all that is written to, full of twos before; of a volume with room for ``rows`` of a halo."""
    t, channels, height, width = x.shape
    x = x.clone()
    shape = channels, height + 2 * rows, width
    volume, latest = twos(past + t, *shape, dtype=x.dtype), twos(past, *shape, dtype=x.dtype)
    residual = terms[1]
    with torch.inference_mode():
        operations.fill_volume(x, *terms, volume, latest, residual is not None)
    if rows:  # what a halo's exchange writes
        for written in (volume[past:], latest[-t:]):
            written[:, :, 0] = written[:, :, -1] = 3.0
    return [volume, latest, x]


def add_padded(operations: Any, x: Tensor, *terms: Tensor | None) -> Tensor:
    t, channels, height, width = x.shape
    larger = twos(t, channels, height + 1, width + 1, dtype=x.dtype)
    with torch.inference_mode():
        operations.add_frames(x, *terms, larger)
    return larger


def add_frames(operations: Any, larger: Tensor, x: Tensor, *terms: Tensor | None) -> list[Tensor]:
    with torch.inference_mode():
        operations.add_frames(x, *terms, inside(larger))
    return [larger, x]


def assert_all_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("form", ["all", "norm of a sum", "norm", "sum"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_past_frames_then_sum_norm_and_silu(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype, form: str
) -> None:
    x = pictures(*shape, dtype=dtype)
    x[0, :, 0, 0] = 0.0
    bias, gamma = torch.randn(2, shape[1])
    past, rows = (1, 0) if form == "sum" else (2, form == "all")
    before = pictures(past, shape[1], shape[2] + 2 * rows, shape[3], dtype=dtype)
    terms = {
        "all": (bias, pictures(*shape, dtype=dtype), gamma.to(dtype), before),
        "norm of a sum": (bias, None, gamma.to(dtype), before),
        "norm": (None, None, gamma.to(dtype), None),
        "sum": (bias, None, None, before),
    }[form]
    found = interpreted(fill_volume, FUSED_PIXELS, x, *terms, past=past, rows=rows)
    assert_all_same(found, fill_volume(EAGER_PIXELS, x, *terms, past=past, rows=rows))
    volume, latest, summed = found
    assert torch.equal(volume[:past], torch.zeros_like(before) if terms[-1] is None else before)
    assert torch.equal(latest, volume[-past:])
    assert torch.equal(summed, x) != (form == "all")


SPREADS = [
    (Spread((20, 2, 2, 2), (20, 1, 1, 1)), 1),
    (Spread((20, 1, 2, 2), (20, 1, 2, 1)), 0),
    (Spread((12, 2, 2, 2), (12, 2, 2, 2)), 0),
]
"""How a shortcut's values are repeated, as in the 5B's VAE and not at all, and frames that are left out."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("spread", "skipped"), SPREADS)
def test_a_residual_that_is_repeated_is_read_where_its_values_are(
    interpreted: Interpreter, spread: Spread, skipped: int, dtype: torch.dtype
) -> None:
    values = pictures(2, prod(spread.own), 3, 5, dtype=dtype)
    residual = Repeated(values, spread, skipped)
    channels = spread.sides[0]
    x = pictures(2 * spread.sides[1] - skipped, channels, 6, 10, dtype=dtype)
    bias, gamma = torch.randn(2, channels)
    for rows in (0, 1):
        before = pictures(2, channels, 6 + 2 * rows, 10, dtype=dtype)

        def terms(residual: Any, before: Tensor = before) -> tuple[Any, ...]:
            return bias, residual, gamma.to(dtype), before

        found = interpreted(fill_volume, FUSED_PIXELS, x, *terms(residual), past=2, rows=rows)
        for shortcut in (residual, residual.pictures().contiguous(memory_format=torch.channels_last)):
            assert_all_same(found, fill_volume(EAGER_PIXELS, x, *terms(shortcut), past=2, rows=rows))


@pytest.mark.parametrize(
    ("dtype", "shape", "forms"),
    [
        (torch.bfloat16, (5, 12), (24, 2, 2)),  # frames, channels; channels, frames and rows that become one
        (torch.float32, (2, 20), (20, 1, 2)),
        (torch.float32, (2, 24), (12, 2, 1)),
    ],
)
def test_a_residual_of_means_is_averaged_where_its_values_are(
    interpreted: Interpreter, dtype: torch.dtype, shape: tuple[int, int], forms: tuple[int, int, int]
) -> None:
    (frames, inputs), (channels, time, size) = shape, forms
    height, width = 3, 5
    values = pictures(frames, inputs, height * size, width * size, dtype=dtype)
    residual = Averaged(values, channels, time, size)
    means = residual.pictures().contiguous(memory_format=torch.channels_last)
    x = pictures(len(means), channels, height, width, dtype=dtype)
    bias, gamma = torch.randn(2, channels)
    before = pictures(2, channels, height + 2, width, dtype=dtype)
    norm = gamma.to(dtype), before
    found = interpreted(fill_volume, FUSED_PIXELS, x, bias, residual, *norm, past=2, rows=1)
    for shortcut in (residual, means):
        assert_all_same(found, fill_volume(EAGER_PIXELS, x, bias, shortcut, *norm, past=2, rows=1))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sum_in_frames(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype, parts: int
) -> None:
    frames, channels, height, width = shape
    x = pictures(frames, parts * channels, height, width, dtype=dtype)
    larger = with_border(parts * frames, channels, height, width, dtype=dtype)
    terms = torch.randn(parts * channels), torch.randn_like(x) if parts == 1 else None
    found = interpreted(add_frames, FUSED_PIXELS, larger.clone(), x.clone(), *terms)
    expected = add_frames(EAGER_PIXELS, larger.clone(), x.clone(), *terms)
    assert_all_same(found, expected)
    # the definition once more: parts are frames that follow each other
    bias, residual = terms
    total = x.float() + bias[:, None, None] + (0.0 if residual is None else residual.float())
    assert torch.equal(inside(expected[0]), total.to(dtype).unflatten(1, (parts, channels)).flatten(0, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sum_with_zeros_below_and_on_the_right(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, residual = pictures(*shape, dtype=dtype), pictures(*shape, dtype=dtype)
    bias = torch.randn(shape[1])
    expected = add_padded(EAGER_PIXELS, x, bias, residual)
    assert_same(interpreted(add_padded, FUSED_PIXELS, x, bias, residual), expected)
    # the definition once more
    total = x.float() + bias[:, None, None] + residual.float()
    assert torch.equal(expected, F.pad(total.to(dtype), (0, 1, 0, 1)))


def yuv(operations: Any, frames: Tensor) -> Tensor:
    with torch.inference_mode():
        return converted(frames, PixelFormat.YUV420P, operations)


@pytest.mark.parametrize("size", [(1, 2, 6), (2, 4, 168), (2, 4, 258)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_as_yuv(interpreted: Interpreter, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    frames, height, width = size
    chunk = (torch.rand(frames, 3, height, width) * 2 - 1).to(dtype)
    for laid_out in (chunk, chunk.contiguous(memory_format=torch.channels_last)):
        apart = yuv(EAGER_PIXELS, chunk).int() - interpreted(yuv, FUSED_PIXELS, laid_out).int()
        assert apart.abs().max() <= 1
        assert apart.abs().float().mean() < 0.001  # a sum in another order falls to the other side


def decoded(conv: ConvForm) -> Tensor:
    """Decode two latent frames of a small VAE, the second as a chunk of its own."""
    latents = torch.randn(1, 8, 2, 1, 2, generator=torch.Generator().manual_seed(3))
    return torch.cat(list(StreamingVae(wan21(), chunk_pixels=1, conv=conv).decode(latents)))


def encoded(conv: ConvForm) -> Tensor:
    """Encode a picture and a chunk after it, by a small VAE."""
    video = torch.randn(1, 3, 5, 8, 16, generator=torch.Generator().manual_seed(3))
    return StreamingVae(wan21(), conv=conv).encode(video)


@pytest.mark.slow
@pytest.mark.parametrize("work", [decoded, encoded])
def test_the_vae_with_the_kernels_is_that_of_a_cpu(
    interpreted: Interpreter, work: Callable[[ConvForm], Tensor]
) -> None:
    found = interpreted(work, partial(VolumeConv, operations=FUSED_PIXELS))
    torch.testing.assert_close(found, work(LookBackConv), atol=1e-4, rtol=0)


class Faulty:
    """Operations that add no bias."""

    def fill_volume(self, x: Tensor, bias: Tensor | None, *others: Any) -> None:
        EAGER_PIXELS.fill_volume(x, None, *others)

    def add_frames(self, x: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor) -> None:
        EAGER_PIXELS.add_frames(x, None, residual, out)

    def yuv420p(self, frames: Tensor, out: Tensor) -> None:
        EAGER_PIXELS.yuv420p(frames, out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trial_passes_the_kernels_and_names_one_that_differs(
    interpreted: Interpreter, dtype: torch.dtype
) -> None:
    cpu = torch.device("cpu")
    assert interpreted(first_difference, FUSED_PIXELS, cpu, dtype, 24) is None
    assert first_difference(Faulty(), cpu, dtype, 24) == "fill_volume"
