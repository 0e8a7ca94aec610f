"""The engine's options: their ranges, and that none of them is ever ignored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.engine import EngineSettings
from models.errors import TuningError
from models.loading import load_engine
from models.parallel.mesh import Mesh
from models.parallel.plan import ParallelPlan
from models.tuning import Tuning
from models.variants import VARIANTS

from .conftest import DEMO_REQUEST as REQUEST
from .conftest import Model

DEMO = VARIANTS["demo"]

REFUSED: list[tuple[dict[str, object], str]] = [
    (
        {"attenton": "auto"},
        "attenton is not an engine option; there are attention, sparsity, exact_steps, exact_blocks",
    ),
    (
        {"attention": "fast"},
        "attention must be one of auto, sdpa, cudnn, flash2, flash3, flash3_fp8, sage, xformers",
    ),
    ({"attention": None}, "attention must be one of"),
    ({"compile": "yes"}, "compile must be true or false, not 'yes'"),
    ({"fp8": 1}, "fp8 must be true or false, not 1"),
    ({"sparsity": 1.0}, "sparsity must be a number, at least 0 and below 1, not 1.0"),
    ({"exact_blocks": -1}, "exact_blocks must be a whole number, at least 0, not -1"),
    ({"exact_blocks": 1.5}, "exact_blocks must be a whole number, at least 0, not 1.5"),
    ({"exact_blocks": True}, "exact_blocks must be a whole number"),
    ({"cache_threshold": -0.1}, "cache_threshold must be a number, at least 0 and below 1, not -0.1"),
    ({"cache_threshold": 1.0}, "below 1"),
    ({"cache_threshold": True}, "below 1"),
    ({"cache_threshold": float("nan")}, "below 1"),
    ({"cache_threshold": "0.1"}, "below 1"),
    ({"offload": "disk"}, "offload must be one of none, experts, model, group"),
]

IMPOSSIBLE_ON_A_CPU: list[tuple[dict[str, object], str]] = [
    ({"attention": "cudnn"}, "attention cudnn cannot be used: it needs a CUDA device"),
    ({"attention": "flash2"}, "flash2 cannot be used: it needs a CUDA device"),
    ({"attention": "flash3"}, "flash3 cannot be used: it needs a CUDA device"),
    ({"attention": "flash3_fp8"}, "flash3_fp8 cannot be used: it needs a CUDA device"),
    ({"attention": "sage"}, "sage cannot be used: it needs a CUDA device"),
    ({"attention": "xformers"}, "xformers cannot be used: it needs a CUDA device"),
    ({"fp8": True}, "fp8 must be false on a CPU"),
    ({"offload": "model"}, "offload must be none on a cpu engine"),
    ({"offload": "group"}, "offload must be none on a cpu engine"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED + IMPOSSIBLE_ON_A_CPU)
def test_an_option_that_is_wrong_or_cannot_work_is_refused_in_a_sentence(
    demo_weights: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(TuningError) as caught:
        load_engine(EngineSettings(DEMO, demo_weights, options=options))
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("option", ["cache_threshold", "unguided_steps"])
def test_a_distilled_model_skips_no_step_and_has_no_guidance_to_leave_out(
    demo_weights: Path, option: str
) -> None:
    settings = EngineSettings(VARIANTS["demo-distill"], demo_weights, options={option: 0.1})
    with pytest.raises(TuningError, match=f"{option} must be 0 for demo-distill"):
        load_engine(settings)


def test_the_defaults_are_those_of_no_options() -> None:
    assert Tuning.from_options({}) == Tuning()
    assert Tuning() == Tuning(
        attention="auto",
        sparsity=0.0,
        exact_steps=0.2,
        exact_blocks=1,
        compile=False,
        fp8=False,
        cache_threshold=0.0,
        unguided_steps=0.0,
        low_resolution_steps=0.0,
        offload="none",
        vae_tiling=False,
        vae_fp8=False,
    )


def test_options_that_change_no_number_make_the_same_bits(demo_weights: Path) -> None:
    def latents(**options: object) -> Any:
        engine = load_engine(EngineSettings(DEMO, demo_weights, options=options))
        return Model(engine, engine.parts.text, None).latents(replace(REQUEST, steps=2))

    plain = latents()
    assert torch.equal(latents(attention="sdpa", cache_threshold=0.0, offload="none"), plain)


class _Group(Mesh):
    """A place in a group that was never started."""

    def __init__(self, plan: ParallelPlan) -> None:
        super().__init__()
        self.plan = plan


@pytest.mark.slow
def test_the_ranks_of_a_group_share_the_threads(demo_weights: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads, ranks, each in ((4, 1, 4), (4, 2, 2), (1, 2, 1)):
            mesh = _Group(ParallelPlan(ulysses=ranks))
            load_engine(EngineSettings(DEMO, demo_weights, threads=threads), mesh)
            assert torch.get_num_threads() == each
        torch.set_num_threads(3)
        load_engine(EngineSettings(DEMO, demo_weights), _Group(ParallelPlan(ulysses=2)))
        assert torch.get_num_threads() == 3  # as the launcher left it
    finally:
        torch.set_num_threads(before)
