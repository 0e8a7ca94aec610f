"""The step cache: a run that skips steps stays near one that does not, and shares its cache with no other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.attention.shard import Shard
from models.engine import EngineSettings, GenerationRequest
from models.loading import load_engine
from models.parallel.mesh import Mesh
from models.parallel.plan import ParallelPlan
from models.parallel.rank_launcher import LaunchedRank, RankLauncher
from models.pipeline.generation import WanGeneration
from models.pipeline.wan_engine import WanEngine
from models.transformer.step_cache import StepCache
from models.variants import VARIANTS

from .checkpoints import save_checkpoint, small
from .conftest import REQUEST, build_model, picture, remade
from .test_checkpoints import defaults

LONG = replace(REQUEST, steps=12)
THRESHOLD = 0.1
PLANS = [ParallelPlan(cfg=2), ParallelPlan(ring=2), ParallelPlan(ulysses=2)]


def engine(threshold: float, mesh: Mesh | None = None, **settings: Any) -> WanEngine:
    built = build_model(expand_timesteps=True, mesh=mesh).engine
    return remade(built, cache_threshold=threshold, **settings)


def run(engine: WanEngine, request: GenerationRequest = LONG) -> WanGeneration:
    generation = engine.prepare(request)
    while generation.step < generation.total_steps:
        engine.denoise_step(generation)
    return generation


def whole_steps(engine: WanEngine, request: GenerationRequest = LONG) -> tuple[list[int], WanGeneration]:
    """Return the steps in which a run computed the second block, and the run."""
    generation = engine.prepare(request)
    seen: list[int] = []
    for expert in engine.parts.denoisers:
        block = expert.transformer.blocks[1]
        block.norm1.register_forward_hook(lambda *_: seen.append(generation.step))
    while generation.step < generation.total_steps:
        engine.denoise_step(generation)
    return seen, generation


def distance(one: WanGeneration, other: WanGeneration) -> float:
    return float((one.latents - other.latents).norm() / other.latents.norm())


def test_a_threshold_of_zero_runs_every_block_to_the_same_bits() -> None:
    steps, generation = whole_steps(engine(0.0))
    assert steps == list(range(12))
    assert generation.skipped_steps == 0
    assert generation.caches == (None,)
    never = run(engine(1e-9))  # remembers, and finds each step changed
    assert never.skipped_steps == 0
    assert torch.equal(never.latents, generation.latents)


def test_skipped_steps_are_counted_and_the_video_stays_near() -> None:
    steps, generation = whole_steps(engine(THRESHOLD))
    assert len(steps) == 12 - generation.skipped_steps
    assert 3 <= generation.skipped_steps <= 10
    assert steps[0] == 0
    assert steps[-1] == 11
    whole = run(engine(0.0))
    assert 0 < distance(generation, whole) < 0.02


@pytest.mark.slow
def test_a_higher_threshold_skips_no_fewer_steps_and_never_the_first_or_the_last() -> None:
    skipped = [run(engine(threshold)).skipped_steps for threshold in (0.01, 0.05, 0.1, 0.99)]
    assert skipped == sorted(skipped)
    assert skipped[-1] == 10
    for steps in (1, 2):
        assert run(engine(0.99), replace(LONG, steps=steps)).skipped_steps == 0


def test_runs_remember_nothing_of_each_other() -> None:
    shared = engine(THRESHOLD)
    other_request = replace(LONG, seed=8, image=picture(LONG.width, LONG.height))
    alone = [run(engine(THRESHOLD), request) for request in (LONG, other_request)]
    both = [shared.prepare(request) for request in (LONG, other_request)]
    for _ in range(12):  # step by step in turn
        for generation in both:
            shared.denoise_step(generation)
    for generation, expected in zip(both, alone, strict=True):
        assert torch.equal(generation.latents, expected.latents)
        assert generation.skipped_steps == expected.skipped_steps


def test_prompts_apart_decide_as_prompts_in_one_batch() -> None:
    batched = run(engine(THRESHOLD))
    apart = run(engine(THRESHOLD, batched_tokens=0))
    assert len(apart.caches) == 2
    assert apart.skipped_steps == batched.skipped_steps > 0
    torch.testing.assert_close(apart.latents, batched.latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "task"),
    [("wan2.2-t2v-a14b", "t2v"), ("wan2.1-vace-1.3b", "i2v"), ("wan2.1-i2v-14b-480p", "i2v")],
)
def test_each_kind_of_model_skips_and_each_expert_begins_anew(tmp_path: Path, name: str, task: str) -> None:
    save_checkpoint(small(name), tmp_path / "weights")

    def loaded(threshold: float) -> WanEngine:
        options = {"cache_threshold": threshold}
        engine = load_engine(EngineSettings(small(name), tmp_path / "weights", options=options))
        first, *others = engine.parts.denoisers
        for other in others:  # experts alike, so that their first blocks do not tell them apart
            other.transformer.load_state_dict(first.transformer.state_dict())
        return engine

    request = defaults(name, task, steps=10)
    steps, generation = whole_steps(loaded(0.9), request)
    begins = [stage.begin for stage in generation.stages]
    assert len(begins) == (2 if VARIANTS[name].boundary else 1)
    assert steps == sorted({*begins, 9})
    assert generation.skipped_steps == 10 - len(steps)
    assert distance(generation, run(loaded(0.0), request)) < 0.2


def test_the_padding_of_a_shard_decides_nothing() -> None:
    class Last(Mesh):
        """The last of two ranks that never met: of 3 tokens a row it has one, and one of padding."""

        def __init__(self) -> None:
            super().__init__()
            self.plan = ParallelPlan(ulysses=2)

        sequence_index = 1

    shard = Shard(Last(), 1, 3)
    remembered = StepCache(Mesh(), 0.5)
    before = torch.zeros(1, 1, 2, 4)
    first = torch.ones(1, 1, 2, 4)
    assert remembered.last(before, first, shard) is None
    remembered.remember(first, 3 * first)
    first[:, :, 1] = 1e6
    last = remembered.last(before, first, shard)
    assert last is not None and torch.equal(last - first, torch.full_like(first, 2.0))
    first[:, :, 0] = 1e6
    assert remembered.last(before, first, shard) is None


def test_a_slow_drift_is_measured_from_the_last_whole_step() -> None:
    shard = Shard(Mesh(), 1, 2)
    remembered = StepCache(Mesh(), 0.5)
    before = torch.zeros(1, 1, 2, 4)
    for size, skipped in ((1.0, False), (1.3, True), (1.6, False), (1.9, True), (2.2, True), (2.5, False)):
        first = torch.full_like(before, size)
        assert (remembered.last(before, first, shard) is not None) == skipped, size
        if not skipped:
            remembered.remember(first, first + 1.0)


def test_a_batch_is_judged_by_its_first_prompt() -> None:
    shard = Shard(Mesh(), 1, 2)
    remembered = StepCache(Mesh(), 0.5)
    before, first = torch.zeros(1, 1, 2, 4), torch.ones(2, 1, 2, 4)
    assert remembered.last(before, first, shard) is None
    remembered.remember(first, 2 * first)
    first[1] = 1e6
    assert remembered.last(before, first, shard) is not None


def judged_by_first_prompt(mesh: Mesh) -> bool:
    """Return whether a step is skipped when the second prompt's ranks alone see a change."""
    shard = Shard(mesh, 1, 2)
    remembered = StepCache(mesh, 0.5)
    before, first = torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
    remembered.last(before, first, shard)
    remembered.remember(first, 2 * first)
    return remembered.last(before, first * (1.0 + 1e6 * mesh.index("cfg")), shard) is not None


def in_group(rank: LaunchedRank, plans: list[ParallelPlan]) -> None:
    rank.join()
    for plan in plans:
        assert judged_by_first_prompt(rank.mesh(plan))
        skipping = engine(THRESHOLD, rank.mesh(plan))
        generation = skipping.prepare(LONG)
        while generation.step < generation.total_steps:
            skipping.denoise_step(generation)
        rank.send((plan, generation.skipped_steps, generation.latents.numpy()))


@pytest.mark.slow
def test_a_group_skips_the_steps_of_one_device() -> None:
    expected = run(engine(THRESHOLD))
    heard: list[ParallelPlan] = []
    with RankLauncher(in_group, 2, PLANS, timeout_s=120) as launcher:
        for _, (plan, skipped, latents) in launcher.messages():
            heard.append(plan)
            assert skipped == expected.skipped_steps > 0, plan
            torch.testing.assert_close(torch.from_numpy(latents), expected.latents, atol=1e-4, rtol=0)
    assert sorted(map(str, heard)) == sorted(str(plan) for plan in PLANS * 2)
