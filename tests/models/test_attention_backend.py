"""Attention kernels: each agrees with torch's own, and one that cannot work is refused with the reason.

The libraries need CUDA devices. In their place stand modules of the same names, whose functions have the
published signatures and layouts and compute in plain torch: the tests are of our calls of them.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from models.attention import kernel_choice, kernels
from models.attention.kernel_choice import (
    AttentionChoice,
    AttentionShape,
    agree,
    choose,
    clearly_fastest,
    differs,
)
from models.attention.kernels import KERNELS, LOSSY, WITH_LOGS, library, sdpa, why_not
from models.attention.shard import Shard
from models.errors import TuningError
from models.parallel.mesh import Mesh
from models.parallel.plan import ParallelPlan
from models.transformer.denoiser import Denoiser
from models.tuning import Attention
from testbed.fake_device.device import FakeDevice

from .conftest import REQUEST, build_model, remade

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
SHAPE = AttentionShape(heads=2, tokens=64, head_dim=32)


def scores_of(q: Any, k: Any, scale: float | None) -> Any:
    return torch.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)


def attend(q: Any, k: Any, v: Any, scale: float | None) -> Any:
    """Compute attention in plain torch, of ``[batch, n, heads, head_dim]``."""
    return torch.einsum("bhqk,bkhd->bqhd", scores_of(q, k, scale).softmax(-1), v)


def flash_attn_func(
    q: Any,
    k: Any,
    v: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Stand in for github.com/Dao-AILab/flash-attention: ``(batch, seqlen, heads, head_dim)``."""
    assert (dropout_p, causal) == (0.0, False)
    out = attend(q, k, v, softmax_scale)
    return (out, scores_of(q, k, softmax_scale).logsumexp(-1), None) if return_attn_probs else out


def flash_attn_func_3(
    q: Any,
    k: Any,
    v: Any,
    softmax_scale: float | None = None,
    causal: bool = False,
    return_attn_probs: bool = False,
    **_: Any,
) -> Any:
    """Stand in for the ``hopper`` folder of the same project, and for the package ``fa3-fwd``."""
    assert not causal
    out = attend(q, k, v, softmax_scale)
    return (out, scores_of(q, k, softmax_scale).logsumexp(-1)) if return_attn_probs else out


def flash_attn_func_3_with_logs(*args: Any, **kwargs: Any) -> Any:
    """Stand in for the first releases of that folder, which return the logsumexp unasked."""
    return flash_attn_func_3(*args, **{**kwargs, "return_attn_probs": True})


def sageattn(
    q: Any, k: Any, v: Any, tensor_layout: str = "HND", is_causal: bool = False, sm_scale: Any = None
) -> Any:
    """Stand in for github.com/thu-ml/SageAttention: "HND" is ``(batch, heads, seqlen, head_dim)``."""
    assert not is_causal
    if tensor_layout == "HND":
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = attend(q, k, v, sm_scale)
    return out.transpose(1, 2) if tensor_layout == "HND" else out


def memory_efficient_attention(
    query: Any, key: Any, value: Any, attn_bias: Any = None, p: float = 0.0, scale: Any = None
) -> Any:
    """Stand in for ``xformers.ops``: ``[B, M, H, K]``."""
    assert (attn_bias, p) == (None, 0.0)
    return attend(query, key, value, scale)


STAND_INS = {
    "flash2": ("flash_attn", "flash_attn_func", flash_attn_func),
    "flash3": ("flash_attn_interface", "flash_attn_func", flash_attn_func_3),
    "flash3 with logs": ("flash_attn_interface", "flash_attn_func", flash_attn_func_3_with_logs),
    "flash3 of fa3-fwd": ("fa3_fwd_interface", "flash_attn_func", flash_attn_func_3),
    "sage": ("sageattention", "sageattn", sageattn),
    "xformers": ("xformers.ops", "memory_efficient_attention", memory_efficient_attention),
}


LIBRARIES = ("flash_attn", "flash_attn_interface", "fa3_fwd_interface", "sageattention", "xformers.ops")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Look each library up anew in each test."""
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the libraries, as if none were there."""
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, none_installed: None) -> Any:
    def installed(case: str) -> str:
        module, name, function = STAND_INS[case]
        packages = module.split(".")
        for depth in range(len(packages)):
            path = ".".join(packages[: depth + 1])
            monkeypatch.setitem(sys.modules, path, ModuleType(path))
        setattr(sys.modules[module], name, function)
        return case.split()[0]

    return installed


@pytest.mark.parametrize("case", STAND_INS)
@pytest.mark.parametrize("keys", [7, 5])
def test_a_library_is_called_in_its_own_layout(install: Any, case: str, keys: int) -> None:
    kernel = KERNELS[install(case)]
    # as the block makes them: tokens before heads in memory, and no two sizes alike
    q = torch.randn(2, 7, 3, 8).transpose(1, 2)
    k, v = (torch.randn(2, keys, 3, 8).transpose(1, 2) for _ in range(2))
    attended = kernel(q, k, v)
    assert attended.shape == q.shape
    torch.testing.assert_close(attended, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("case", [case for case in STAND_INS if case.startswith("flash")])
def test_a_library_returns_the_logs_that_a_ring_merges_by(install: Any, case: str) -> None:
    kernel = WITH_LOGS[KERNELS[install(case)]]
    q, k, v = (torch.randn(2, 7, 3, 8).transpose(1, 2) for _ in range(3))
    attended, logs = kernel(q, k, v)
    expected, expected_logs = WITH_LOGS[sdpa](q, k, v)
    torch.testing.assert_close(attended, expected)
    torch.testing.assert_close(logs, expected_logs)


@pytest.mark.parametrize("case", STAND_INS)
def test_a_kernel_serves_a_whole_run(install: Any, case: str) -> None:
    model = build_model(expand_timesteps=False)
    expected = model.latents(REQUEST)
    denoiser = Denoiser(model.engine.parts.denoiser.transformer, attention=KERNELS[install(case)])
    attending = replace(model, engine=remade(model.engine, denoiser=denoiser))
    torch.testing.assert_close(attending.latents(REQUEST), expected, atol=1e-4, rtol=0)


def test_the_chosen_kernel_is_the_one_that_attends() -> None:
    calls = []

    def counting(queries: Any, keys: Any, values: Any) -> Any:
        calls.append(queries.shape)
        return sdpa(queries, keys, values)

    q = torch.randn(1, 2, 6, 8)
    torch.testing.assert_close(Shard(Mesh(), 2, 3, counting).attention(q, q, q), sdpa(q, q, q))
    assert calls == [(1, 2, 6, 8)]


@pytest.mark.parametrize("setting", ["auto", "sdpa"])
def test_a_cpu_attends_with_torch_and_measures_nothing(setting: Attention) -> None:
    assert choose(setting, CPU, torch.float32, SHAPE) == AttentionChoice("sdpa", sdpa)


@pytest.mark.parametrize("name", ["sage", "xformers"])
def test_a_ring_takes_a_kernel_with_logs_or_none(name: Attention) -> None:
    ring = AttentionShape(heads=2, tokens=64, head_dim=32, ring=2)
    assert choose("sdpa", CUDA, torch.bfloat16, ring).kernel in WITH_LOGS
    with pytest.raises(TuningError, match=f"attention {name} cannot serve a ring .* flash3_fp8, or Ulysses"):
        choose(name, CUDA, torch.bfloat16, ring)


def test_what_is_preferred_stays_unless_another_is_clearly_faster() -> None:
    assert clearly_fastest({"flash3": 10.0, "cudnn": 9.6, "sdpa": 9.7}) == "flash3"
    assert clearly_fastest({"flash3": 10.0, "cudnn": 9.4, "sdpa": 9.3}) == "sdpa"
    assert clearly_fastest({"cudnn": 9.4}) == "cudnn"


@pytest.mark.parametrize("ring", [1, 2])
def test_auto_keeps_to_the_order_where_kernels_are_alike(
    monkeypatch: pytest.MonkeyPatch, install: Any, ring: int
) -> None:
    """Choose on a fake Hopper device, on which every call takes as long as any other."""

    def empty(device: torch.device, dtype: torch.dtype, size: tuple[int, ...]) -> Any:
        return (torch.empty(size, device=device, dtype=dtype),) * 3

    fake, shape = FakeDevice(), AttentionShape(heads=2, tokens=64, head_dim=128, ring=ring)
    monkeypatch.setattr(kernel_choice, "_noise", empty)
    monkeypatch.setattr(kernel_choice, "_is_inexact", lambda *_: True)
    with fake, pytest.raises(TuningError, match=r"auto finds no kernel here: .*sdpa gives other numbers"):
        choose("auto", fake.device, torch.bfloat16, shape)
    monkeypatch.setattr(kernel_choice, "_is_inexact", lambda *_: False)
    with fake:
        assert choose("auto", fake.device, torch.bfloat16, shape).name == "cudnn"
        install("flash3 of fa3-fwd")
        install("xformers")  # whose kernels are for devices before it
        library.cache_clear()
        choice = choose("auto", fake.device, torch.bfloat16, shape)
    assert choice.name == "flash3"
    assert list(choice.measured_ms) == ["flash3", "cudnn", "sdpa"]


class RankOne:
    """Rank 1 of a group whose rank 0 has told the number of its kernel."""

    def __init__(self, told: str) -> None:
        self.told = told

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(list(KERNELS).index(self.told))


def test_a_rank_takes_the_kernel_of_rank_0_or_none() -> None:
    own = AttentionChoice("sdpa", sdpa, {"sdpa": 9.0, "cudnn": 9.4}, {"flash3": "is not installed"})
    mesh: Any = RankOne("cudnn")
    agreed = agree(own, mesh)
    assert (agreed.name, agreed.kernel, agreed.measured_ms) == ("cudnn", KERNELS["cudnn"], own.measured_ms)
    assert agree(own, Mesh()) == own
    mesh.told = "flash3"
    with pytest.raises(TuningError, match="attention flash3, rank 0's choice, cannot be used: it is not"):
        agree(own, mesh)


@pytest.mark.parametrize(("version", "refused"), [("1.0.6", True), ("2.2.0", False)])
def test_the_first_sage_is_refused_on_hopper(
    monkeypatch: pytest.MonkeyPatch, install: Any, version: str, refused: bool
) -> None:
    install("sage")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(metadata, "version", lambda _: version)
    monkeypatch.setattr(kernels, "_why_not_running", lambda *_: None)  # there is no device to run it on
    reason = why_not("sage", CUDA, torch.bfloat16, 128)
    assert (reason is not None and "has no kernel for Hopper in version 1.0.6" in reason) == refused


@pytest.mark.parametrize(("parts", "row_tokens"), [(4, 15), (4, 5), (4, 2), (2, 3)])
def test_padding_is_cut_out_of_the_keys_without_asking_the_device(parts: int, row_tokens: int) -> None:
    rows, each = 3, -(-row_tokens // parts)
    mesh: Any = SimpleNamespace(plan=ParallelPlan(ulysses=parts))
    # the number of each token in its row, in the order in which an all-to-all leaves them
    numbers = torch.arange(parts * each).view(parts, 1, each).expand(parts, rows, each).reshape(1, 1, -1, 1)
    seen = []

    def seeing(queries: Any, keys: Any, values: Any) -> Any:
        seen.append(keys)
        return queries

    Shard(mesh, rows, row_tokens, seeing).attention(numbers, numbers, numbers)
    assert sorted(seen[0].flatten().tolist()) == sorted(rows * list(range(row_tokens)))
    keys = numbers.to("meta")  # which raises where a shape depends on values
    Shard(mesh, rows, row_tokens, seeing).attention(keys, keys, keys)
    assert seen[1].shape == (1, 1, rows * row_tokens, 1)


REASONS = [
    ("flash2", (9, 0), torch.float32, 128, "needs bfloat16 or float16, not float32"),
    ("flash3", (10, 0), torch.bfloat16, 128, "is made for Hopper devices"),
    ("flash3", (8, 9), torch.bfloat16, 128, "is made for Hopper devices"),
    ("sage", (7, 5), torch.float16, 128, "needs compute capability 8.0, not 7.5"),
    ("cudnn", (9, 0), torch.bfloat16, 256, "takes heads of up to 128 channels"),
    ("flash3_fp8", (10, 0), torch.bfloat16, 128, "is made for Hopper devices"),
    ("flash3_fp8", (9, 0), torch.bfloat16, 72, "in multiples of 16, not of 72"),
    ("flash2", (9, 0), torch.bfloat16, 20, "in multiples of 8, not of 20"),
    ("flash2", (9, 0), torch.bfloat16, 128, "is not installed (there is no module flash_attn)"),
    (
        "flash3",
        (9, 0),
        torch.bfloat16,
        128,
        "is not installed (there is no module flash_attn_interface or fa3_fwd_interface)",
    ),
    (
        "flash3_fp8",
        (9, 0),
        torch.bfloat16,
        128,
        "is not installed (there is no module flash_attn_interface or fa3_fwd_interface)",
    ),
    ("sage", (9, 0), torch.bfloat16, 128, "is not installed (there is no module sageattention)"),
    ("xformers", (9, 0), torch.bfloat16, 128, "is not installed (there is no module xformers.ops)"),
]


@pytest.mark.usefixtures("none_installed")
@pytest.mark.parametrize(("name", "capability", "dtype", "head_dim", "said"), REASONS)
def test_a_kernel_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: Any, capability: Any, dtype: Any, head_dim: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    reason = why_not(name, CUDA, dtype, head_dim)
    assert reason is not None
    assert said in reason
    with pytest.raises(TuningError, match=f"attention {name} cannot be used: it "):
        choose(name, CUDA, dtype, AttentionShape(2, 64, head_dim))


def test_a_library_that_does_not_load_is_told_from_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c10\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert why_not("flash2", CUDA, torch.bfloat16, 128) == "does not load: undefined symbol: _ZN3c10"


def test_a_result_that_is_wrong_or_no_number_differs() -> None:
    right = torch.randn(1, 2, 64, 32)
    assert not differs(right.bfloat16(), right)
    assert differs(right * 1.1, right)
    assert differs(right.roll(1, 2), right)
    assert differs(torch.full_like(right, float("nan")), right)


def test_a_choice_names_the_kernels_that_it_was_made_from() -> None:
    choice = AttentionChoice("cudnn", sdpa, {"sdpa": 3.0, "cudnn": 2.0}, {"flash2": "is not installed"})
    assert str(choice) == "attention cudnn (cudnn 2.00 ms, sdpa 3.00 ms; flash2 is not installed)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures on a CUDA device")
def test_auto_takes_an_exact_kernel_that_none_outdoes_clearly() -> None:
    choice = choose("auto", CUDA, torch.bfloat16, AttentionShape(heads=8, tokens=4096, head_dim=128))
    assert choice.measured_ms[choice.name] <= 1.05 * min(choice.measured_ms.values())
    assert "sdpa" in choice.measured_ms
    assert not LOSSY & choice.measured_ms.keys()
    assert (choice.measured_ms.keys() | choice.ruled_out.keys()) <= KERNELS.keys() - LOSSY


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="attends on a CUDA device")
def test_every_kernel_of_a_ring_gives_torchs_logs() -> None:
    q, k, v = (torch.randn(1, 64, 8, 128, device="cuda").bfloat16().transpose(1, 2) for _ in range(3))
    expected, expected_logs = WITH_LOGS[sdpa](q, k, v)
    for name, kernel in KERNELS.items():
        if kernel in WITH_LOGS and why_not(name, CUDA, torch.bfloat16, 128) is None:
            attended, logs = WITH_LOGS[kernel](q, k, v)
            assert not differs(attended, expected) and not differs(logs, expected_logs), name
