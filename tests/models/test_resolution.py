"""Runs whose first steps are at half the height and width."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.attention.approximation import Approximation
from models.attention.sparse import SparseAttention
from models.engine import GenerationRequest
from models.errors import TuningError
from models.parallel.mesh import Mesh
from models.pipeline.resolution import drawn, enlarged, halved
from models.pipeline.sampling import distilled_schedule, unipc_schedule
from models.pipeline.stages import stages_of
from models.pipeline.wan_engine import WanEngine
from models.speed.fp8 import closeness
from models.speed.offload import Offloader, StreamedBlocks
from models.speed.tuned_model import TunedModel
from models.transformer.block import blocks_in_order
from models.transformer.denoiser import Denoiser
from models.tuning import Tuning
from models.variants import VARIANTS

from .conftest import REQUEST, Model, build_model, picture, remade

SHORT = replace(REQUEST, num_frames=17, steps=5)
WHOLE, SMALL = (6, 10), (4, 6)
"""Height and width of latents. A patch has two by two: either half is rounded up to whole patches."""


@pytest.fixture(scope="module", params=[False, True], ids=["unipc", "distilled"])
def model(request: pytest.FixtureRequest) -> Model:
    return build_model(expand_timesteps=True, distilled=request.param)


def halving(model: Model, share: float = 0.5, **settings: Any) -> WanEngine:
    return remade(model.engine, low_resolution_steps=share, **settings)


@contextmanager
def latents_seen(engine: WanEngine) -> Iterator[list[Tensor]]:
    """Collect the latents that the transformer gets."""
    seen: list[Tensor] = []
    embedding = engine.parts.denoiser.transformer.patch_embedding
    hook = embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        yield seen
    finally:
        hook.remove()


def run_to_end(engine: WanEngine, request: GenerationRequest = SHORT) -> Tensor:
    return Model(engine, engine.parts.text, None).latents(request)


def test_first_steps_have_a_quarter_of_the_tokens_and_the_others_all(model: Model) -> None:
    engine = halving(model, batched_tokens=0)
    with latents_seen(engine) as seen:
        assert run_to_end(engine).shape[-2:] == WHOLE
    forwards = 1 if engine.variant.distilled else 2
    sizes = [tuple(latents.shape[-2:]) for latents in seen]
    assert sizes == [SMALL] * 2 * forwards + [WHOLE] * 3 * forwards


def test_at_the_change_the_noise_has_the_level_of_the_step(model: Model) -> None:
    engine = halving(model)
    run = engine.prepare(SHORT)
    for _ in range(2):
        engine.denoise_step(run)
    clean, sigma = run.solver.clean, run.solver.schedule.sigmas[2]
    assert clean is not None and tuple(clean.shape[-2:]) == SMALL
    with latents_seen(engine) as seen:
        engine.denoise_step(run)
    wide = enlarged(clean, seen[0])
    noise = (seen[0][:1] - (1 - sigma) * wide) / sigma
    count = noise.numel()
    assert abs(noise.mean()) < 5 / count**0.5
    assert abs(noise.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((noise * wide).mean() / wide.std()) < 5 / count**0.5
    plain = model.engine.prepare(SHORT).latents
    torch.testing.assert_close(noise, plain, atol=1e-4, rtol=0)


def test_no_small_step_and_a_picture_change_no_bit(model: Model) -> None:
    plain = run_to_end(model.engine)
    assert torch.equal(run_to_end(halving(model, 0.19)), plain)  # of five steps, none
    assert not torch.equal(run_to_end(halving(model, 0.2)), plain)
    shown = replace(SHORT, image=picture(SHORT.width, SHORT.height))
    assert torch.equal(run_to_end(halving(model), shown), run_to_end(model.engine, shown))


@pytest.mark.slow
def test_an_early_end_and_previews_have_the_full_size(model: Model) -> None:
    engine = halving(model)
    run = engine.prepare(SHORT)
    shapes = set()
    for _ in range(2):
        shapes.add(engine.preview(run).shape)
        engine.denoise_step(run)
    shapes.add(engine.preview(run).shape)
    assert shapes == {(5, *WHOLE, 3)}
    engine.cut_short(run)
    assert np.concatenate(list(engine.decode(run))).shape == (17, SHORT.height, SHORT.width, 3)


def test_a_step_cache_begins_anew_with_the_size() -> None:
    model = build_model(expand_timesteps=False)
    engine = halving(model, cache_threshold=0.9)
    run = engine.prepare(SHORT)
    while run.step < run.total_steps:
        engine.denoise_step(run)
    assert run.skipped_steps > 0
    assert run.latents.isfinite().all()


def test_small_steps_have_their_own_blocks_of_keys_in_sparse_attention(model: Model) -> None:
    long = replace(SHORT, width=128, height=96)  # 240 tokens and 60, of which 16 are a block
    transformer = model.engine.parts.denoiser.transformer

    def sparse(sparsity: float) -> Tensor:
        approximation = Approximation(SparseAttention(sparsity), exact_blocks=0, in_order=True)
        denoiser = Denoiser(transformer, approximation=approximation)
        return run_to_end(halving(model, denoiser=denoiser), long)

    plain = run_to_end(halving(model), long)
    torch.testing.assert_close(sparse(0.0), plain, atol=1e-4, rtol=0)
    assert 1e-3 < closeness(sparse(0.5), plain).error < 0.1


def test_small_steps_run_on_blocks_that_wait_on_the_host() -> None:
    model = build_model(expand_timesteps=False)
    plain = run_to_end(halving(model))
    transformer = model.engine.parts.denoiser.transformer
    weights = StreamedBlocks(transformer, blocks_in_order(transformer)[0], Offloader(torch.device("cpu")))
    engine = halving(model, denoiser=Denoiser(transformer, weights=weights))
    assert torch.equal(run_to_end(engine), plain)


@pytest.mark.parametrize("distilled", [False, True])
def test_steps_are_divided_by_expert_guidance_and_size(distilled: bool) -> None:
    engine = build_model(expand_timesteps=False).engine
    variant = replace(engine.variant, boundary=0.9, distilled=distilled)
    parts = replace(engine.parts, low_noise=engine.parts.denoiser)
    schedule = distilled_schedule(4, 5.0) if distilled else unipc_schedule(10, 5.0)
    stages = stages_of(variant, parts, REQUEST, schedule, 0.3, 0.5)
    found = [(stage.begin, stage.end, stage.is_small, stage.guidance_scale > 1) for stage in stages]
    if distilled:  # as many small steps as those of the first expert
        assert found == [(0, 2, True, False), (2, 4, False, False)]
    else:
        switch = found[0][1]
        assert 0 < switch < 5
        assert found == [
            (0, switch, True, True),
            (switch, 5, True, True),
            (5, 7, False, True),
            (7, 10, False, False),
        ]


@pytest.mark.parametrize("name", ["wan2.1-i2v-14b-480p", "wan2.1-vace-1.3b"])
def test_a_model_that_is_shown_its_pictures_at_full_size_refuses_it(name: str) -> None:
    with pytest.raises(TuningError, match=f"low_resolution_steps must be 0 for {name}"):
        TunedModel(
            Tuning(low_resolution_steps=0.3), VARIANTS[name], torch.device("cpu"), torch.float32, Mesh()
        )


def test_the_first_noise_of_a_seed_does_not_depend_on_what_is_drawn_after_it() -> None:
    shape = (1, 4, 3, *WHOLE)
    assert halved(shape, 2) == (1, 4, 3, *SMALL)
    whole, small = drawn(7, shape, halved(shape, 2))
    assert torch.equal(whole, drawn(7, shape)[0])
    assert small.shape == halved(shape, 2)


def test_enlarging_keeps_what_is_large() -> None:
    rows = torch.linspace(-1, 1, 8)[:, None].expand(8, 8)
    wide = enlarged(rows.expand(1, 2, 3, 8, 8), torch.empty(1, 2, 3, 16, 16))
    assert wide.shape == (1, 2, 3, 16, 16)
    pooled = torch.nn.functional.avg_pool2d(wide[0, 0], 2)
    torch.testing.assert_close(pooled[:, 2:-2], rows[2:-2].expand(3, 4, 8), atol=1e-3, rtol=0)
