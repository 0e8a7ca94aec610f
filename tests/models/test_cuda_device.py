"""A CUDA device is made ready before anything is allocated on it; calls of torch are only recorded here."""

from pathlib import Path

import pytest
import torch

from models.engine import EngineSettings
from models.loading import load_engine
from models.speed.cuda_device import prepare
from models.variants import VARIANTS


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", made.append)
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    return made


def test_an_engine_makes_its_device_ready_first(calls: list[object], demo_weights: Path) -> None:
    device = torch.device("cuda", 99)  # which no machine has
    with pytest.raises((RuntimeError, AssertionError)):
        load_engine(EngineSettings(VARIANTS["demo"], demo_weights, str(device)))
    assert calls == ["expandable_segments:True", device]


def test_the_first_device_need_not_be_named(calls: list[object]) -> None:
    prepare(torch.device("cuda"))
    assert calls == ["expandable_segments:True"]


def test_a_cpu_is_left_as_it_is(calls: list[object]) -> None:
    prepare(torch.device("cpu"))
    assert calls == []


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_operator_set_for_the_allocator_stays(
    monkeypatch: pytest.MonkeyPatch, calls: list[object], variable: str
) -> None:
    monkeypatch.setenv(variable, "max_split_size_mb:512")
    prepare(torch.device("cuda", 0))
    assert calls == [torch.device("cuda", 0)]
