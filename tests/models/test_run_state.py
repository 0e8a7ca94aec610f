"""A run goes on from its snapshot in another engine, to the bits of one that was never interrupted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.engine import EngineSettings, Generation, GenerationRequest, Snapshot
from models.generate import generate
from models.loading import load_engine
from models.pipeline.wan_engine import WanEngine
from models.video_spec import LoraUse

from .checkpoints import save_checkpoint, small
from .conftest import REQUEST, build_model, picture, remade
from .lora_files import random_products, save_products

TWO = "wan2.2-t2v-a14b"
SHORT = replace(REQUEST, num_frames=5)
TAIL = np.stack([picture(REQUEST.width, REQUEST.height, seed) for seed in range(5)])
"""The last frames of an earlier video, of which a model without a first frame needs five."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts, and the LoRA ``style``, another one for each of them."""
    root = tmp_path_factory.mktemp("run-state")
    save_checkpoint(small(TWO), root / "weights")
    engine = load_engine(EngineSettings(small(TWO), root / "weights"))
    for seed, half in enumerate(("high_noise", "low_noise")):
        products = random_products(engine.parts.denoiser.transformer, seed=seed)
        save_products(root / "loras" / f"style_{half}.safetensors", "diffusers", products)
    return root


def two_experts(root: Path) -> WanEngine:
    return load_engine(EngineSettings(small(TWO), root / "weights", lora_folder=root / "loras"))


def first_frames(root: Path) -> WanEngine:
    return build_model(expand_timesteps=True).engine


def distilled(root: Path) -> WanEngine:
    return build_model(expand_timesteps=True, distilled=True).engine


def text_alone(root: Path) -> WanEngine:
    engine = build_model(expand_timesteps=False).engine
    return remade(engine, variant=replace(engine.variant, tasks=frozenset({"t2v"})))


def small_at_first(root: Path) -> WanEngine:
    return remade(build_model(expand_timesteps=True).engine, low_resolution_steps=0.5)


CASES: dict[str, tuple[Callable[[Path], WanEngine], GenerationRequest]] = {
    "two-experts-with-loras": (two_experts, replace(SHORT, guidance_scale_2=3.0, loras=(LoraUse("style"),))),
    "fragments-from-a-picture": (
        first_frames,
        replace(SHORT, steps=3, num_fragments=2, image=picture(REQUEST.width, REQUEST.height)),
    ),
    "distilled": (distilled, SHORT),
    "low-resolution": (small_at_first, SHORT),
    "continuation-of-a-tail": (
        text_alone,
        replace(REQUEST, steps=3, num_fragments=2, tail=TAIL, fragments_before=1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_in_another_engine_to_the_same_bits_from_every_step(root: Path, case: str) -> None:
    build, request = CASES[case]
    engine, run, kept = build(root), list[Generation](), list[Snapshot]()

    def keep(done: int, total: int) -> None:
        pending = engine.snapshot(run[-1])
        assert pending is not None
        kept.append(pending())

    whole = np.concatenate(list(generate(engine, request, keep, on_prepared=run.append)))
    ends = {snapshot.fragment: snapshot for snapshot in kept if snapshot.step == request.steps}
    other = build(root)
    for snapshot in kept:
        before = {fragment: end for fragment, end in ends.items() if fragment < snapshot.fragment}
        frames = generate(other, request, snapshots={**before, snapshot.fragment: snapshot})
        assert np.array_equal(np.concatenate(list(frames)), whole), snapshot.step


def test_a_run_with_a_step_cache_has_a_snapshot_only_of_its_end() -> None:
    engine = remade(build_model(expand_timesteps=True).engine, cache_threshold=0.1)
    run = engine.prepare(SHORT)
    while run.step < run.total_steps:
        assert run.step == 0 or engine.snapshot(run) is None
        engine.denoise_step(run)
    pending = engine.snapshot(run)
    assert pending is not None and pending().step == SHORT.steps
