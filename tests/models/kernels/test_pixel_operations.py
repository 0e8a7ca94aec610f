"""Each fused operation of the VAE beside the eager one that defines its numbers, by Triton's interpreter.

The sizes divide neither each other nor a kernel's block, and the pictures written to lie in larger ones.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.pixel_choice import first_difference
from models.kernels.pixel_operations import EAGER_PIXELS
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


def with_border(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return pictures of twos with two frames before and a row on either side of those of this shape."""
    frames, channels, height, width = shape
    larger = torch.full((frames + 2, channels, height + 2, width), 2.0, dtype=dtype)
    return larger.contiguous(memory_format=torch.channels_last)


def inside(larger: Tensor) -> Tensor:
    return larger[2:, :, 1:-1]


def add_norm(operations: Any, larger: Tensor, x: Tensor, *terms: Tensor | None, keep: bool) -> list[Tensor]:
    """Return all that is written to, also where nothing may be."""
    with torch.inference_mode():
        operations.add_norm(x, *terms, inside(larger), keep)
    return [larger, x]


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
def test_sum_norm_and_silu(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype, form: str
) -> None:
    x, larger = pictures(*shape, dtype=dtype), with_border(*shape, dtype=dtype)
    x[0, :, 0, 0] = 0.0
    bias, gamma = torch.randn(2, shape[1])
    terms = {
        "all": (bias, pictures(*shape, dtype=dtype), gamma.to(dtype)),
        "norm of a sum": (bias, None, gamma.to(dtype)),
        "norm": (None, None, gamma.to(dtype)),
        "sum": (bias, pictures(*shape, dtype=dtype), None),
    }[form]
    keep = form == "all"
    found = interpreted(add_norm, FUSED_PIXELS, larger.clone(), x.clone(), *terms, keep=keep)
    expected = add_norm(EAGER_PIXELS, larger.clone(), x.clone(), *terms, keep=keep)
    assert_all_same(found, expected)
    assert torch.equal(found[1], x) != keep
    inside(found[0]).fill_(2.0)
    assert torch.equal(found[0], larger)


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


def yuv(operations: Any, frames: Tensor) -> Tensor:
    with torch.inference_mode():
        return converted(frames, PixelFormat.YUV420P, operations)


@pytest.mark.parametrize("size", [(2, 16, 24), (1, 2, 6), (3, 6, 258)])
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


def test_a_decode_with_the_kernels_is_that_of_a_cpu(interpreted: Interpreter) -> None:
    found = interpreted(decoded, partial(VolumeConv, operations=FUSED_PIXELS))
    torch.testing.assert_close(found, decoded(LookBackConv), atol=1e-4, rtol=0)


class Faulty:
    """Operations that add no bias."""

    def add_norm(
        self,
        x: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        gamma: Tensor | None,
        out: Tensor,
        keep: bool,
    ) -> None:
        EAGER_PIXELS.add_norm(x, None, residual, gamma, out, keep)

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
    assert first_difference(Faulty(), cpu, dtype, 24) == "add_norm"
