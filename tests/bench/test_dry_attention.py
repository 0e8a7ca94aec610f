"""Steps of a 14B with attention in 8 bits and with sparse attention, on a fake Hopper device."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gpu_blocks import attention, gates, products
from bench.gpu_blocks.bench import Bench
from bench.gpu_blocks.finding import Findings
from models.attention import kernel_choice
from models.attention.kernels import library
from models.memory.estimate import request_memory
from models.parallel.mesh import Mesh
from models.speed.tuned_model import TunedModel
from models.tuning import Tuning
from models.variants import VARIANTS
from testbed.fake_device.device import FakeDevice
from testbed.fake_device.dry_run import DryRun, dry_engine, dry_model, few_layers, sized_request
from testbed.fake_device.traffic import Moved, total_bytes

pytestmark = pytest.mark.slow

VARIANT = few_layers(VARIANTS["wan2.1-t2v-14b"])
TOKENS, HEADS, HEAD_DIM = 32760, 40, 128
VALUES = TOKENS * HEADS * HEAD_DIM
FORWARDS = 2
"""Of a guided step: in each, the first of two blocks attends exactly."""


@pytest.fixture(autouse=True)
def flash3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for FlashAttention 3, by shapes, and for what ``auto`` draws on a device."""

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, **scales: Tensor) -> Tensor:
        if scales:
            assert {tensor.dtype for tensor in (q, k, v)} == {torch.float8_e4m3fn}
            assert {scale.shape for scale in scales.values()} == {(1, q.shape[2])}
        return torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)

    def empty(device: torch.device, dtype: torch.dtype, size: tuple[int, ...]) -> Any:
        return tuple(torch.empty(size, device=device, dtype=dtype) for _ in range(3))

    module = ModuleType("flash_attn_interface")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    monkeypatch.setattr(kernel_choice, "_noise", empty)
    library.cache_clear()
    yield
    library.cache_clear()


def launches(tuning: Tuning) -> list[Moved]:
    """Take two steps; return the launches of the second."""
    device = FakeDevice()
    with device:
        model = dry_model(device, VARIANT)
        run = DryRun(device, model, dry_engine(model, VARIANT, tuning))
        request = sized_request(VARIANT)
        stages = [run.prepare(request), run.step(), run.step()]
        scratch = TunedModel(tuning, VARIANT, device.device, torch.bfloat16, Mesh()).scratch
    assert [stage.traffic.waits for stage in stages[1:]] == [["torch.cuda.synchronize"]] * 2
    memory = request_memory(VARIANT, request, 2, scratch=scratch)
    assert memory.text_keys + memory.step == pytest.approx(max(stage.peak_bytes for stage in stages), rel=0.1)
    return stages[-1].traffic.launches


def counted(moved: list[Moved]) -> Counter[str]:
    return Counter(each.name for each in moved)


def test_attention_in_8_bits_moves_queries_keys_and_values_twice_and_writes_them_once() -> None:
    moved = launches(Tuning(attention="flash3_fp8"))
    names = counted(moved)
    assert names["wan_serve.head_statistics"] == names["wan_serve.scaled_heads"] == 3 * FORWARDS
    assert names["aten.scaled_dot_product_attention"] == 2 * FORWARDS  # to the text alone
    ours = [each for each in moved if each.name in ("wan_serve.head_statistics", "wan_serve.scaled_heads")]
    assert total_bytes(ours) == pytest.approx(FORWARDS * 3 * VALUES * (2 + 2 + 1), rel=0.02)


def test_sparse_attention_takes_one_kernel_and_no_copy_of_what_attends() -> None:
    sparse, dense = launches(Tuning(sparsity=0.5, attention="sdpa")), launches(Tuning(attention="sdpa"))
    replaced = counted(dense) - counted(sparse)
    assert counted(sparse)["wan_serve.block_sparse_attention"] == FORWARDS
    assert replaced["aten.scaled_dot_product_attention"] == FORWARDS
    # beside reading queries and keys for their means: choosing blocks, and the order of tokens
    assert total_bytes(sparse) - total_bytes(dense) < 1.4 * FORWARDS * 2 * VALUES * 2


def test_the_benchmarks_blocks_find_a_figure_for_each_form_on_a_device(tmp_path: Path) -> None:
    device = FakeDevice()
    bench = Bench("block", Findings(tmp_path / "findings.jsonl"), device.device, tiny=True, folder=tmp_path)
    with device:
        for work in (attention.measure, products.measure, gates.flash3_fp8, gates.sparse):
            work(bench)
    found = bench.findings.read()
    figures = {finding.name for finding in found if finding.kind == "figure"}
    for name in ("flash3_fp8", "flash3_fp8, 512 tokens, its quantising", "sparsity 0.5", "sparsity 0.7"):
        assert any(figure.startswith(name) for figure in figures), name
    for how in ("eagerly", "by a fused kernel"):
        assert f"64 to 128 in 8 bits, quantised {how}" in figures
    assert not [finding for finding in found if finding.kind == "failure"]
    assert [finding.passed for finding in found if finding.kind == "gate"] == [True, True]
