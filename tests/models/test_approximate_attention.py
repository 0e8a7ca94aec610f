"""Attention in 8 bits and sparse attention: how near they stay to exact attention, and where that is used.

The kernels themselves are tested in ``tests/models/kernels``; here the plain torch that defines their numbers
attends.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.attention import kernel_choice
from models.attention.approximation import Approximation
from models.attention.kernel_choice import why_not_sparse
from models.attention.kernels import (
    WITH_LOGS,
    AttentionKernel,
    flash3_fp8,
    fp8_in_plain_torch,
    library,
    sdpa,
    sdpa_with_logs,
)
from models.attention.shard import Shard
from models.attention.sparse import SparseAttention, block_tokens, kept_blocks
from models.attention.token_order import neighbourhood_order
from models.engine import EngineSettings
from models.errors import TuningError
from models.kernels.scaled_heads import scaled_heads, scaled_heads_in_plain_torch
from models.loading import load_engine
from models.parallel.mesh import Mesh
from models.parallel.plan import ParallelPlan
from models.pipeline.wan_engine import WanEngine
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.speed.fp8 import closeness
from models.transformer.denoiser import Denoiser
from models.variants import VARIANTS

from .checkpoints import small, transformer
from .conftest import DEMO_REQUEST, REQUEST, Model, picture, remade

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GRID = (5, 6, 9)
LONG = replace(REQUEST, width=128, height=96, num_frames=17)
"""A request of 240 tokens: 15 blocks of 16, the least that there are."""


def noise(*size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, *size, generator=generator)
    return queries, keys, values


def with_attention(model: Model, approximation: Approximation | None, **settings: Any) -> Model:
    transformer = model.engine.parts.denoiser.transformer
    denoiser = Denoiser(transformer, approximation=approximation)
    return replace(model, engine=remade(model.engine, denoiser=denoiser, **settings))


def test_attention_in_8_bits_is_near_exact_attention() -> None:
    q, k, v = noise(2, 3, 200, 64)
    found = closeness(fp8_in_plain_torch(q, k, v), sdpa(q, k, v))
    assert 0.005 < found.error < 0.06


def test_what_all_keys_have_in_common_takes_no_precision() -> None:
    q, k, v = noise(1, 2, 200, 64)
    k = k + 30 * torch.randn(1, 2, 1, 64, generator=torch.Generator().manual_seed(1))
    expected = sdpa(q, k, v)
    assert closeness(fp8_in_plain_torch(q, k, v), expected).error < 0.06
    uncentred = scaled_heads(k)
    rounded = uncentred.values.float() * uncentred.scale[..., None, None]
    assert closeness(sdpa(q, rounded, v), expected).error > 0.3


def test_a_loud_head_takes_no_precision_from_the_others() -> None:
    q, k, v = noise(1, 2, 100, 64)
    alone = fp8_in_plain_torch(q, k, v)
    for part in (q, k, v):
        part[:, 1] *= 1000.0
    assert torch.equal(fp8_in_plain_torch(q, k, v)[:, 0], alone[:, 0])


@pytest.fixture
def flash3(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Stand in for FlashAttention 3; return the dtypes that it was called with."""
    called: list[Any] = []

    def flash_attn_func(
        q: Any,
        k: Any,
        v: Any,
        q_descale: Any,
        k_descale: Any,
        v_descale: Any,
        return_attn_probs: bool = False,
    ) -> Any:
        called.append((q.dtype, k.dtype, v.dtype))
        parts = zip((q, k, v), (q_descale, k_descale, v_descale), strict=True)
        exact = [part.float().transpose(1, 2) * scale[:, :, None, None] for part, scale in parts]
        attended, logs = sdpa_with_logs(*exact)
        attended = attended.transpose(1, 2).bfloat16()
        return (attended, logs) if return_attn_probs else attended

    library.cache_clear()
    module = type("flash_attn_interface", (), {"flash_attn_func": staticmethod(flash_attn_func)})
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    yield called
    library.cache_clear()


def test_flash_attention_gets_8_bits_and_the_scale_of_each_head(flash3: list[Any]) -> None:
    q, k, v = (part.bfloat16() for part in noise(2, 3, 50, 32))
    found = flash3_fp8(q, k, v)
    assert flash3 == [(torch.float8_e4m3fn,) * 3]
    assert (found.shape, found.dtype) == (q.shape, torch.bfloat16)
    assert closeness(found, fp8_in_plain_torch(q, k, v)).error < 0.005
    found, logs = WITH_LOGS[flash3_fp8](q, k, v)
    expected, expected_logs = WITH_LOGS[fp8_in_plain_torch](q, k, v)
    assert closeness(found, expected).error < 0.005
    torch.testing.assert_close(logs, expected_logs)


def test_a_library_that_takes_scales_in_another_way_is_refused(
    monkeypatch: pytest.MonkeyPatch, flash3: list[Any]
) -> None:
    monkeypatch.setattr(kernel_choice, "why_not", lambda *_: None)  # which would ask for a CUDA device
    shape = kernel_choice.AttentionShape(heads=2, tokens=64, head_dim=32)
    assert kernel_choice.choose("flash3_fp8", CPU, torch.float32, shape).kernel is flash3_fp8
    right = library("flash3_fp8").flash_attn_func

    def inverse(*args: Any, k_descale: Any, **scales: Any) -> Any:
        return right(*args, k_descale=1 / k_descale, **scales)

    monkeypatch.setattr(library("flash3_fp8"), "flash_attn_func", inverse)
    with pytest.raises(TuningError, match="flash3_fp8 cannot be used: it gives other numbers here"):
        kernel_choice.choose("flash3_fp8", CPU, torch.float32, shape)

    def of_two(*args: Any, **options: Any) -> Any:
        """Return the logs for base 2."""
        attended, logs = right(*args, **options)
        return attended, logs / math.log(2)

    ring = replace(shape, ring=2)
    monkeypatch.setattr(library("flash3_fp8"), "flash_attn_func", right)
    assert kernel_choice.choose("flash3_fp8", CPU, torch.float32, ring).kernel is flash3_fp8
    monkeypatch.setattr(library("flash3_fp8"), "flash_attn_func", of_two)
    with pytest.raises(TuningError, match="flash3_fp8 cannot be used: it gives other numbers here"):
        kernel_choice.choose("flash3_fp8", CPU, torch.float32, ring)


def test_the_order_keeps_every_token_and_neighbours_together() -> None:
    order = neighbourhood_order(*GRID, CPU)
    assert sorted(order.tolist()) == list(range(5 * 6 * 9))
    boxes = neighbourhood_order(8, 8, 16, CPU).view(-1, 128)
    frames, rows, columns = boxes // 128, boxes // 16 % 8, boxes % 16
    spans = [(part.amax(1) - part.amin(1)).unique().tolist() for part in (frames, rows, columns)]
    assert spans == [[3], [3], [7]]


def test_a_block_attends_to_the_first_its_neighbours_and_those_that_score_highest() -> None:
    q, k, _ = noise(1, 2, 16 * 12, 8)
    q, k = 0.01 * q, 0.01 * k
    q[:, 0, 16 * 5 : 16 * 6, 3] += 1.0
    k[:, 0, 16 * 9 : 16 * 10, 3] += 1.0  # what block 5 of the first head looks for
    kept = kept_blocks(q, k, 16, sparsity=0.55)
    assert kept.shape == (1, 2, 12, 6)
    for head in kept[0]:
        for number, blocks in enumerate(head.tolist()):
            assert len(set(blocks)) == 6
            assert {0, number, max(number - 1, 0), min(number + 1, 11)} <= set(blocks)
    assert 9 in kept[0, 0, 5]
    assert kept_blocks(q, k, 16, sparsity=0.99).shape[3] == 4
    assert kept_blocks(q[:, :, :40], k[:, :, :40], 16, sparsity=0.99).shape[3] == 3  # there are no more


def test_a_short_sequence_is_cut_into_smaller_blocks() -> None:
    assert [block_tokens(tokens) for tokens in (32760, 1024, 1023, 240, 9)] == [128, 128, 64, 16, 16]


def test_a_sparsity_of_zero_is_dense_attention() -> None:
    q, k, v = noise(2, 2, 150, 24)
    torch.testing.assert_close(SparseAttention(0.0)(q, k, v), sdpa(q, k, v))


def clustered(tokens: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw tokens that attend to their like: each 16 in a row have a direction in common."""
    directions = torch.randn(1, 2, -(-tokens // 16), head_dim, generator=torch.Generator().manual_seed(2))
    shared = 2.0 * directions.repeat_interleave(16, dim=2)[:, :, :tokens]
    q, k, v = noise(1, 2, tokens, head_dim)
    return q + shared, k + shared, v


def test_what_is_left_out_is_what_has_little_weight() -> None:
    q, k, v = clustered(200, 24)
    expected = sdpa(q, k, v)
    errors = [closeness(SparseAttention(sparsity)(q, k, v), expected).error for sparsity in (0.3, 0.5, 0.7)]
    assert errors == sorted(errors)
    assert errors[0] < 0.05 and errors[1] < 0.1


SPARSE = Approximation(SparseAttention(0.5), exact_blocks=0, in_order=True)


@pytest.mark.parametrize("image", [False, True])
def test_sparse_attention_that_keeps_all_makes_the_same_video(expanding_model: Model, image: bool) -> None:
    request = replace(LONG, image=picture(LONG.width, LONG.height) if image else None)
    expected = expanding_model.latents(request)
    all_kept = replace(SPARSE, kernel=SparseAttention(0.0))
    torch.testing.assert_close(
        with_attention(expanding_model, all_kept).latents(request), expected, atol=1e-4, rtol=0
    )
    some = closeness(with_attention(expanding_model, SPARSE).latents(request), expected).error
    assert 1e-3 < some < 0.1


def test_the_tokens_of_control_blocks_are_put_in_the_same_order() -> None:
    variant = small("wan2.1-vace-1.3b")
    model = transformer(variant)
    all_kept = replace(SPARSE, kernel=SparseAttention(0.0))
    dense, ordered = (
        dummy_forward(
            Denoiser(model, approximation=approximation), variant, model.config, DummyShape(3, 12, 10)
        )
        for approximation in (None, all_kept)
    )
    torch.testing.assert_close(ordered, dense, atol=1e-4, rtol=0)


def test_attention_in_8_bits_makes_nearly_the_same_video(plain_model: Model) -> None:
    found = with_attention(plain_model, Approximation(fp8_in_plain_torch, exact_blocks=0)).latents(REQUEST)
    assert 1e-4 < closeness(found, plain_model.latents(REQUEST)).error < 0.02


class Counting:
    """Counts the calls of a kernel."""

    def __init__(self, kernel: AttentionKernel) -> None:
        self.kernel, self.calls = kernel, 0

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.calls += 1
        return self.kernel(queries, keys, values)


@pytest.mark.parametrize(("exact_steps", "exact_blocks"), [(0.0, 0), (0.25, 1), (0.3, 0), (0.5, 2)])
def test_the_first_steps_and_blocks_attend_exactly(
    plain_model: Model, exact_steps: float, exact_blocks: int
) -> None:
    kernel = Counting(sdpa)
    approximation = Approximation(kernel, exact_blocks)
    model = with_attention(plain_model, approximation, exact_steps=exact_steps)
    steps, blocks = REQUEST.steps, 2
    generation = model.engine.prepare(REQUEST)
    calls = []
    for _ in range(steps):
        before = kernel.calls
        model.engine.denoise_step(generation)
        calls.append(kernel.calls - before)
    exact = {0.0: 0, 0.25: 1, 0.3: 2, 0.5: 2}[exact_steps]
    assert calls == [0] * exact + [blocks - exact_blocks] * (steps - exact)


def loaded(demo_weights: Path, mesh: Mesh | None = None, **options: object) -> WanEngine:
    return load_engine(EngineSettings(VARIANTS["demo"], demo_weights, options=options), mesh)


def test_the_settings_reach_the_engine_and_the_log(
    demo_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert loaded(demo_weights).parts.denoiser.approximation is None
    with caplog.at_level("INFO", "models.speed.tuned_model"):
        engine = loaded(demo_weights, sparsity=0.5, exact_steps=0.4, exact_blocks=4)
    assert (
        "attention of sparsity 0.5, but exact in the first 0.4 of the steps and 4 of the blocks"
        in caplog.text
    )
    approximation = engine.parts.denoiser.approximation
    assert approximation is not None and approximation.in_order
    assert isinstance(approximation.kernel, SparseAttention) and approximation.kernel.sparsity == 0.5
    counting = Counting(approximation.kernel)
    engine.parts.denoiser.approximation = replace(approximation, kernel=counting)
    Model(engine, engine.parts.text, None).latents(replace(DEMO_REQUEST, steps=5))
    assert counting.calls == (VARIANTS["demo"].layers - 4) * 3


class Unmeshed(Mesh):
    """A place in a group that was never started."""

    def __init__(self, plan: ParallelPlan) -> None:
        super().__init__()
        self.plan = plan


def test_settings_that_do_not_go_together_are_refused(demo_weights: Path) -> None:
    with pytest.raises(TuningError, match=r"sparsity must be 0 in a ring, .* choose Ulysses\."):
        loaded(demo_weights, Unmeshed(ParallelPlan(ring=2)), sparsity=0.5)
    with pytest.raises(TuningError, match="sparsity must be 0 with attention flash3_fp8"):
        loaded(demo_weights, sparsity=0.5, attention="flash3_fp8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel does run where CUDA is")
def test_a_device_on_which_the_kernel_does_not_run_is_told() -> None:
    reason = why_not_sparse(CUDA, torch.bfloat16, 128)
    assert reason is not None and reason.startswith("does not run here: ")
    assert why_not_sparse(CPU, torch.float32, 48) is None


@pytest.mark.parametrize(
    ("ranks", "rows", "row_tokens"), [(1, 3, 5), (2, 1, 9), (4, 3, 5), (4, 3, 8), (2, 3, 1)]
)
def test_a_kernel_that_goes_by_places_gets_tokens_in_their_order(
    ranks: int, rows: int, row_tokens: int
) -> None:
    each = -(-row_tokens // ranks)
    mesh: Any = Unmeshed(ParallelPlan(ulysses=ranks))
    order = torch.randperm(row_tokens, generator=torch.Generator().manual_seed(0))
    whole = (torch.arange(rows * row_tokens) + 1.0).view(1, rows, row_tokens, 1)
    expected = whole.index_select(2, order).flatten()
    parts = []
    for rank in range(ranks):
        mesh.index = lambda axis, rank=rank: rank if axis == "ulysses" else 0
        parts.append(Shard(mesh, rows, row_tokens, sdpa, order).cut(whole))
    # as an all-to-all leaves them: b ulysses (rows n) d
    dealt = torch.stack(parts, 1).view(1, 1, ranks * rows * each, 1)
    seen: list[Tensor] = []

    def seeing(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        seen.extend((queries, keys, values))
        return queries

    attended = Shard(mesh, rows, row_tokens, seeing, order).attention(dealt, dealt, dealt)
    for tokens in seen:
        assert torch.equal(tokens.flatten(), expected)
    assert torch.equal(attended, dealt)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="runs Triton's kernels on a CUDA device")
def test_a_device_quantises_and_attends_as_plain_torch_does() -> None:
    q, k, v = (part.to(CUDA, torch.bfloat16) for part in noise(1, 3, 2500, 128))
    for centred in (False, True):
        found, expected = scaled_heads(k, centred=centred), scaled_heads_in_plain_torch(k, centred=centred)
        torch.testing.assert_close(found.scale, expected.scale, rtol=1e-5, atol=0)
        assert (found.values.float() != expected.values.float()).float().mean() < 0.02
    assert why_not_sparse(CUDA, torch.bfloat16, 128) is None
    assert closeness(SparseAttention(0.0)(q, k, v), sdpa(q, k, v)).error < 0.01
