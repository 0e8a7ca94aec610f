"""Each fused operation beside the eager one that defines its numbers: Triton's interpreter runs the kernels.

The sizes divide neither each other nor a kernel's block.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.kernels.eager import EAGER
from models.kernels.fused import FUSED
from models.kernels.operations import Modulation, ScaledRows, Tokens

from .interpreter import Interpreter

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1, 3, 20), (2, 3, 5, 46), (1, 2, 1, 130)]
"""Batch, rows, tokens of a row and channels."""
EPS = 1e-6


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def noise(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size).to(dtype)


def modulation(rows: int, channels: int) -> tuple[Tensor, ...]:
    """Shift, scale and gate as a block has them: parts of one tensor."""
    return noise(rows, 3, channels).chunk(3, dim=1)


def layer_norm(channels: int, affine: bool) -> nn.LayerNorm:
    norm = nn.LayerNorm(channels, eps=EPS, elementwise_affine=affine).requires_grad_(False)
    for parameter in norm.parameters():
        parameter.copy_(noise(channels))
    return norm


def rms_norm(channels: int, dtype: torch.dtype) -> nn.RMSNorm:
    norm = nn.RMSNorm(channels, eps=EPS, dtype=dtype).requires_grad_(False)
    norm.weight.copy_(noise(channels, dtype=dtype))
    return norm


def assert_same(found: Tokens, expected: Tokens) -> None:
    """Assert equality but for float32 rounding: a value of fewer bits may rarely round to its neighbour."""
    if isinstance(expected, ScaledRows):
        assert isinstance(found, ScaledRows)
        torch.testing.assert_close(found.scale, expected.scale, rtol=2**-7, atol=0)
        found, expected = found.values, expected.values
    assert isinstance(found, Tensor)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    step = torch.finfo(found.dtype).eps
    found, expected = found.float(), expected.float()
    if step < 2**-20:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    else:
        torch.testing.assert_close(found, expected, rtol=step, atol=2e-6)
        assert (found != expected).float().mean() < 0.02


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("form", ["plain", "affine", "modulated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype, form: str, eight_bits: bool
) -> None:
    _, rows, _, channels = shape
    x = noise(*shape, dtype=dtype) * 3 + 1
    x[0, 0, 0] = 0.0  # a token of zeros, and so of variance zero
    shift, scale, _ = modulation(rows, channels)
    arguments: tuple[Any, ...] = (layer_norm(channels, form == "affine"), x)
    if form == "modulated":
        arguments += (Modulation(shift, scale),)
    assert_same(
        interpreted(FUSED.layer_norm, *arguments, eight_bits=eight_bits),
        EAGER.layer_norm(*arguments, eight_bits=eight_bits),
    )


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_residual(interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype, gated: bool) -> None:
    batch, rows, n, channels = shape
    *_, gate = modulation(rows, channels)
    update = noise(*shape, dtype=dtype)
    for first in {1, batch}:  # one video for all prompts, or one each
        arguments = noise(first, rows, n, channels, dtype=dtype), update, gate if gated else None
        assert_same(interpreted(FUSED.residual, *arguments), EAGER.residual(*arguments))


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("form", ["gated, affine", "modulated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_residual_and_layer_norm(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype, form: str, eight_bits: bool
) -> None:
    batch, rows, n, channels = shape
    shift, scale, gate = modulation(rows, channels)
    update = noise(*shape, dtype=dtype)
    for first in {1, batch}:
        x = noise(first, rows, n, channels, dtype=dtype)
        arguments: tuple[Any, ...] = x, update, gate, layer_norm(channels, affine=True)
        if form == "modulated":
            arguments = x, update, None, layer_norm(channels, affine=False), Modulation(shift, scale)
        found = interpreted(FUSED.residual_layer_norm, *arguments, eight_bits=eight_bits)
        expected = EAGER.residual_layer_norm(*arguments, eight_bits=eight_bits)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n", "heads", "head_dim"), [(1, 5, 3, 10), (2, 3, 2, 12), (1, 1, 5, 26)])
def test_rms_norm_and_rotation(
    interpreted: Interpreter,
    batch: int,
    n: int,
    heads: int,
    head_dim: int,
    dtype: torch.dtype,
    parts: int,
) -> None:
    channels = heads * head_dim
    product = noise(batch, n, 3, channels, dtype=dtype)[:, :, :parts]  # values lie beside queries and keys
    norms = [rms_norm(channels, dtype) for _ in range(parts)]
    angles = torch.rand(1, 1, n, head_dim // 2) * 6
    rotation = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)
    found = interpreted(FUSED.rms_norm_rotate, product, norms, rotation, heads)
    expected = EAGER.rms_norm_rotate(product, norms, rotation, heads)
    assert len(found) == len(expected) == parts
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (batch, heads, n, head_dim)
        assert_same(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3, 20), (2, 3, 46), (130,)])
def test_gelu_and_rows_in_8_bits(
    interpreted: Interpreter, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = noise(*shape, dtype=dtype) * 4
    x.view(-1, shape[-1])[0] *= 100  # a loud token takes no precision from the others
    assert_same(interpreted(FUSED.gelu, x, eight_bits=True), EAGER.gelu(x, eight_bits=True))
    assert_same(interpreted(FUSED.scaled_rows, x), EAGER.scaled_rows(x))
    zeros = interpreted(FUSED.scaled_rows, torch.zeros_like(x))
    assert not zeros.values.float().any()
    assert zeros.scale.isfinite().all()
