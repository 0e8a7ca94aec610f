"""Compiled blocks: one form serves every block, size and group, and is compiled before the first run.

Tracing, which is where forms are told apart and breaks are found, is torch's own. Machine code, which takes a
compiler, is made where there is one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor

from models.engine import EngineSettings
from models.errors import TuningError
from models.kernels.eager import rotated
from models.loading import load_engine
from models.parallel.plan import ParallelPlan
from models.parallel.rank_launcher import LaunchedRank, RankLauncher
from models.pipeline.wan_engine import WanEngine
from models.speed.compiled import compiled_parts, rehearse
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.transformer.block import uncompiled_parts
from models.transformer.denoiser import Denoiser
from models.variants import VARIANTS

from .checkpoints import load_checkpoint, save_checkpoint, small
from .checkpoints import transformer as small_transformer
from .conftest import REQUEST, Model, build_model, picture, remade
from .test_checkpoints import defaults

pytestmark = pytest.mark.slow

SHORT = replace(REQUEST, steps=2)
IMAGE = picture(REQUEST.width, REQUEST.height)
PARTS = 3
DEMO = VARIANTS["demo"]


def compiled_with(
    backend: Any, engine: WanEngine, variant: Any, plan: ParallelPlan | None = None
) -> WanEngine:
    """Compile an engine as the loader does, with ``backend``."""
    block_parts = compiled_parts(plan or ParallelPlan(), backend)
    transformer, mesh = engine.parts.denoiser.transformer, engine.parts.denoiser.mesh
    alone = Denoiser(transformer, block_parts=block_parts)
    rehearse(alone, variant, plan or ParallelPlan(), transformer.config)
    first, *others = (
        Denoiser(expert.transformer, mesh, block_parts=block_parts) for expert in engine.parts.denoisers
    )
    return remade(engine, denoiser=first, low_noise=others[0] if others else None)


def test_every_block_shares_one_compiled_form() -> None:
    counter = CompileCounter()
    model = build_model(expand_timesteps=False)
    assert len(model.pipeline.transformer.blocks) == 2
    denoiser = Denoiser(model.pipeline.transformer, block_parts=compiled_parts(ParallelPlan(), counter))
    replace(model, engine=remade(model.engine, denoiser=denoiser)).latents(replace(SHORT, guidance_scale=1.0))
    assert counter.frame_count == PARTS


def test_runs_of_every_form_and_size_compile_nothing_more() -> None:
    model = build_model(expand_timesteps=True)
    requests = [
        SHORT,
        replace(SHORT, guidance_scale=1.0),
        replace(SHORT, image=IMAGE),
        replace(SHORT, image=IMAGE, guidance_scale=1.0),
        replace(SHORT, width=112, height=64, num_frames=13, prompt="a longer prompt than the others are"),
        replace(SHORT, width=32, height=96, num_frames=5, image=picture(32, 96)),
    ]
    expected = [model.latents(request) for request in requests]
    counter = CompileCounter()
    compiled = replace(model, engine=compiled_with(counter, model.engine, model.engine.variant))
    rehearsed = counter.frame_count
    assert rehearsed > 0
    for request, latents in zip(requests, expected, strict=True):
        torch.testing.assert_close(compiled.latents(request), latents, atol=1e-4, rtol=0)
    apart = replace(model, engine=remade(compiled.engine, batched_tokens=0))
    torch.testing.assert_close(apart.latents(SHORT), expected[0], atol=1e-4, rtol=0)
    halved, whole = (
        replace(model, engine=remade(engine, low_resolution_steps=0.5)).latents(SHORT)
        for engine in (compiled.engine, model.engine)
    )
    torch.testing.assert_close(halved, whole, atol=1e-4, rtol=0)
    assert not torch.allclose(halved, expected[0], atol=1e-2)
    assert counter.frame_count == rehearsed


@pytest.mark.parametrize(("name", "task"), [("wan2.1-flf2v-14b", "flf2v"), ("wan2.1-vace-1.3b", "i2v")])
def test_pictures_and_a_side_branch_are_compiled_before_the_first_run(
    tmp_path: Path, name: str, task: str
) -> None:
    save_checkpoint(small(name), tmp_path / "weights")
    # a small default size, to be quick; what is compiled is for any
    variant = replace(small(f"{name}-distill"), width=96, height=64, num_frames=9)
    model = load_checkpoint(variant, tmp_path / "weights")
    request = defaults(f"{name}-distill", task)
    expected = model.latents(request)
    counter = CompileCounter()
    compiled = replace(model, engine=compiled_with(counter, model.engine, variant))
    rehearsed = counter.frame_count
    torch.testing.assert_close(compiled.latents(request), expected, atol=1e-4, rtol=0)
    assert counter.frame_count == rehearsed > 0


def test_an_older_torch_allows_as_many_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.compile

    def older(model: Any, *, fullgraph: bool, dynamic: bool, backend: Any) -> Any:
        return whole(model, fullgraph=fullgraph, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", older)
    variant = small("wan2.1-t2v-1.3b")
    model = small_transformer(variant)
    with dynamo.patch(recompile_limit=1):
        counter = CompileCounter()
        denoiser = Denoiser(model, block_parts=compiled_parts(ParallelPlan(), counter))
        for prompts in (1, 2):
            shape = DummyShape(frames=2, height=8, width=8, prompts=prompts)
            dummy_forward(denoiser, variant, model.config, shape)
    assert counter.frame_count > PARTS


def in_group(rank: LaunchedRank, plan: ParallelPlan) -> None:
    rank.join()
    counter = CompileCounter()
    plain = build_model(expand_timesteps=False, distilled=True, mesh=rank.mesh(plan)).engine
    engine = compiled_with(counter, plain, plain.variant, plan)
    rank.meet()
    rehearsed = counter.frame_count
    generation = engine.prepare(SHORT)
    while generation.step < generation.total_steps:
        engine.denoise_step(generation)
    rank.send((counter.frame_count - rehearsed, generation.latents.numpy()))


def test_a_group_runs_what_each_rank_compiled_by_itself() -> None:
    expected = build_model(expand_timesteps=False, distilled=True).latents(SHORT)
    with RankLauncher(in_group, 2, ParallelPlan(ulysses=2), timeout_s=120) as launcher:
        heard = [content for _, content in launcher.messages()]
    assert [compiled for compiled, _ in heard] == [0, 0]
    for _, latents in heard:
        torch.testing.assert_close(torch.from_numpy(latents), expected, atol=1e-4, rtol=0)


def test_the_rotation_is_the_same_with_and_without_complex_numbers() -> None:
    tokens = torch.randn(1, 7, 3, 8).transpose(1, 2)
    angles = torch.rand(1, 1, 7, 4)
    rotation = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)
    compiled = torch.compile(rotated, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, rotation), rotated(tokens, rotation), atol=1e-6, rtol=0)


def test_nothing_is_compiled_unless_asked(demo_weights: Path) -> None:
    parts = load_engine(EngineSettings(DEMO, demo_weights)).parts.denoiser.block_parts
    assert parts == uncompiled_parts(ParallelPlan())


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of compiled code for the test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_machine_without_a_compiler_is_refused_with_the_reason(
    demo_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(TuningError, match=r"compile does not work here: .*no-such-compiler") as caught:
        load_engine(EngineSettings(DEMO, demo_weights, options={"compile": True}))
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiles for a CUDA device")
def test_a_device_makes_nearly_the_same_video_compiled(demo_weights: Path) -> None:
    def latents(**options: object) -> torch.Tensor:
        engine = load_engine(EngineSettings(DEMO, demo_weights, "cuda", options=options))
        return Model(engine, engine.parts.text, None).latents(replace(SHORT, width=64, height=32))

    plain = latents()
    assert (latents(compile=True) - plain).norm() < 0.05 * plain.norm()
