"""Attention kernels: each agrees with torch's own, and one that cannot work is refused with the reason.

The libraries need CUDA devices. In their place stand modules of the same names, whose functions have the
published signatures and layouts and compute in plain torch: the tests are of our calls of them.
"""

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from models.attention.kernel_choice import AttentionChoice, AttentionShape, choose, differs
from models.attention.kernels import KERNELS, LOSSY, sdpa, why_not
from models.attention.shard import Shard
from models.errors import TuningError
from models.parallel.mesh import Mesh
from models.transformer.denoiser import Denoiser
from models.tuning import Attention

from .conftest import REQUEST, build_model, remade

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
SHAPE = AttentionShape(heads=2, tokens=64, head_dim=32)


def attend(q: Any, k: Any, v: Any, scale: float | None) -> Any:
    """Compute attention in plain torch, of ``[batch, n, heads, head_dim]``."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def flash_attn_func(
    q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False
) -> Any:
    """Stand in for github.com/Dao-AILab/flash-attention: ``(batch, seqlen, heads, head_dim)``."""
    assert (dropout_p, causal) == (0.0, False)
    return attend(q, k, v, softmax_scale)


def flash_attn_func_3(
    q: Any, k: Any, v: Any, softmax_scale: float | None = None, causal: bool = False, **_: Any
) -> Any:
    """Stand in for the ``hopper`` folder of the same project."""
    assert not causal
    return attend(q, k, v, softmax_scale)


def flash_attn_func_3_with_logs(*args: Any, **kwargs: Any) -> Any:
    """Stand in for the first releases of that folder, which return the logsumexp too."""
    out = flash_attn_func_3(*args, **kwargs)
    return out, out.new_zeros(out.shape[0], out.shape[2], out.shape[1])


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
    "sage": ("sageattention", "sageattn", sageattn),
    "xformers": ("xformers.ops", "memory_efficient_attention", memory_efficient_attention),
}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
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


def test_a_ring_takes_its_own_kernel_or_none() -> None:
    ring = AttentionShape(heads=2, tokens=64, head_dim=32, ring=2)
    assert choose("auto", CUDA, torch.bfloat16, ring).name == "sdpa"
    for name in KERNELS.keys() - {"sdpa"}:
        with pytest.raises(TuningError, match=f"attention {name} cannot serve a ring"):
            choose(name, CUDA, torch.bfloat16, ring)  # type: ignore[arg-type]


REASONS = [
    ("flash2", (9, 0), torch.float32, 128, "needs bfloat16 or float16, not float32"),
    ("flash3", (10, 0), torch.bfloat16, 128, "is made for Hopper devices"),
    ("flash3", (8, 9), torch.bfloat16, 128, "is made for Hopper devices"),
    ("sage", (7, 5), torch.float16, 128, "needs compute capability 8.0, not 7.5"),
    ("cudnn", (9, 0), torch.bfloat16, 256, "takes heads of up to 128 channels"),
    ("flash2", (9, 0), torch.bfloat16, 20, "in eights, not of 20"),
    ("flash2", (9, 0), torch.bfloat16, 128, "is not installed (there is no module flash_attn)"),
    ("flash3", (9, 0), torch.bfloat16, 128, "is not installed (there is no module flash_attn_interface)"),
    ("sage", (9, 0), torch.bfloat16, 128, "is not installed (there is no module sageattention)"),
    ("xformers", (9, 0), torch.bfloat16, 128, "is not installed (there is no module xformers.ops)"),
]


@pytest.mark.parametrize(("name", "capability", "dtype", "head_dim", "said"), REASONS)
def test_a_kernel_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: Any, capability: Any, dtype: Any, head_dim: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    for library in ("flash_attn", "flash_attn_interface", "sageattention", "xformers.ops"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not there
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
def test_auto_takes_the_fastest_exact_kernel() -> None:
    choice = choose("auto", CUDA, torch.bfloat16, AttentionShape(heads=8, tokens=4096, head_dim=128))
    assert choice.measured_ms[choice.name] == min(choice.measured_ms.values())
    assert "sdpa" in choice.measured_ms
    assert not LOSSY & choice.measured_ms.keys()
    assert (choice.measured_ms.keys() | choice.ruled_out.keys()) == KERNELS.keys() - LOSSY
