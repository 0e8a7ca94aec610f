"""The kernels of 8-bit and sparse attention beside the plain torch that defines their numbers.

Triton's interpreter runs the kernels. The sizes divide neither each other nor a kernel's block.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.block_sparse import block_sparse_in_plain_torch
from models.kernels.scaled_heads import ScaledHeads, scaled_heads, scaled_heads_in_plain_torch

from .interpreter import Interpreter

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def noise(batch: int, heads: int, n: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Draw a view with tokens before heads, as a block has it, that others lie beside."""
    return torch.randn(batch, n, 3, heads, head_dim).to(dtype)[:, :, 1].transpose(1, 2)


def by_kernels(x: Tensor, centred: bool, chunk: int) -> ScaledHeads:
    from models.kernels import head_kernels

    values, scale = head_kernels.scaled_heads(x, head_kernels.head_statistics(x, chunk), centred, chunk)
    return ScaledHeads(values.transpose(1, 2), scale)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "heads", "n", "head_dim"), [(1, 2, 16, 10), (2, 3, 21, 24), (1, 1, 3, 32)])
def test_heads_are_quantised_by_their_own_range(
    interpreted: Interpreter, batch: int, heads: int, n: int, head_dim: int, dtype: torch.dtype, centred: bool
) -> None:
    x = noise(batch, heads, n, head_dim, dtype) * 3 + 2
    x[:, 0, n // 2] *= 20  # one loud token, in one head
    x[0, -1] *= x.new_tensor(1.0 if heads == 1 else 0.0)  # one silent head
    found = interpreted(by_kernels, x, centred, chunk=8)
    expected = scaled_heads_in_plain_torch(x, centred=centred)
    torch.testing.assert_close(found.scale, expected.scale, rtol=1e-5, atol=1e-12)
    assert found.values.dtype == expected.values.dtype
    assert found.values.transpose(1, 2).is_contiguous() and expected.values.transpose(1, 2).is_contiguous()
    one, other = found.values.float(), expected.values.float()
    torch.testing.assert_close(one, other, rtol=2**-3, atol=2**-9)
    assert (one != other).float().mean() < 0.02  # a value between two may go either way


def test_quantised_heads_are_near_what_they_were_and_centred_ones_lose_what_all_share() -> None:
    x = noise(1, 2, 50, 16, torch.float32)
    for centred, expected in ((False, x), (True, x - x.mean(2, keepdim=True))):
        values, scale = scaled_heads(x, centred=centred)
        torch.testing.assert_close(
            values.float() * scale[:, :, None, None], expected, rtol=2**-4, atol=float(scale.max()) * 2**-9
        )
    assert scaled_heads(torch.zeros(1, 2, 5, 16)).scale.gt(0).all()


def by_block_kernel(queries: Tensor, keys: Tensor, values: Tensor, kept: Tensor, block_tokens: int) -> Tensor:
    from models.kernels import block_sparse_kernel

    return block_sparse_kernel.block_sparse_attention(queries, keys, values, kept, block_tokens).transpose(
        1, 2
    )


def some_blocks(batch: int, heads: int, blocks: int, count: int) -> Tensor:
    """Draw ``count`` blocks of keys for each block of queries."""
    return torch.rand(batch, heads, blocks, blocks).argsort(dim=3)[..., :count].int()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "heads", "n", "head_dim", "block_tokens", "count"),
    [(2, 2, 41, 24, 16, 2), (1, 1, 65, 10, 32, 1), (1, 2, 150, 16, 128, 1), (1, 1, 7, 16, 16, 1)],
)
def test_a_block_of_queries_attends_to_its_blocks_of_keys_alone(
    interpreted: Interpreter,
    batch: int,
    heads: int,
    n: int,
    head_dim: int,
    block_tokens: int,
    count: int,
    dtype: torch.dtype,
) -> None:
    q, k, v = (noise(batch, heads, n, head_dim, dtype) for _ in range(3))
    q = q * 4  # so that weights are far from equal
    kept = some_blocks(batch, heads, -(-n // block_tokens), count)
    found = interpreted(by_block_kernel, q, k, v, kept, block_tokens)
    assert (found.shape, found.dtype) == (q.shape, dtype)
    expected = block_sparse_in_plain_torch(q.float(), k.float(), v.float(), kept, block_tokens)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


def test_all_blocks_kept_is_dense_attention(interpreted: Interpreter) -> None:
    q, k, v = (noise(2, 2, 41, 24, torch.float32) for _ in range(3))
    kept = some_blocks(2, 2, 3, 3)
    expected = F.scaled_dot_product_attention(q, k, v)
    for found in (
        block_sparse_in_plain_torch(q, k, v, kept, 16),
        interpreted(by_block_kernel, q, k, v, kept, 16),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_block_that_is_not_kept_has_no_influence() -> None:
    q, k, v = (noise(1, 1, 48, 16, torch.float32) for _ in range(3))
    kept = torch.tensor([[[[0, 1], [1, 2], [2, 0]]]], dtype=torch.int32)
    before = block_sparse_in_plain_torch(q, k, v, kept, 16)
    k[:, :, 16:32] += 5.0  # block 1, which the third block of queries does not attend to
    after = block_sparse_in_plain_torch(q, k, v, kept, 16)
    assert torch.equal(after[:, :, 32:], before[:, :, 32:])
    assert not torch.allclose(after[:, :, :32], before[:, :, :32])
