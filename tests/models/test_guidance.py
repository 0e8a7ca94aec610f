"""Guidance costs where it is asked for and nowhere else: a run without it computes and keeps one prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from models.conditioning.text_encoder import TextEncoder
from models.engine import GenerationRequest
from models.limits import BATCHED_TOKENS
from models.pipeline.generation import WanGeneration

from .conftest import REQUEST, Model, build_model, remade

PROMPTS = {"encoded": 1, "projected": 1, "keys": 2}
"""What a run does once for each prompt; the model has two blocks."""


@dataclass
class Calls:
    """Calls of a model's networks, and the batch rows of each of its forward passes."""

    encoded: int = 0
    projected: int = 0
    keys: int = 0
    rows: list[int] = field(default_factory=list)

    def count(self, name: str) -> Any:
        def hook(*_: Any) -> None:
            setattr(self, name, getattr(self, name) + 1)

        return hook


@contextmanager
def counted(model: Model) -> Iterator[Calls]:
    """Count what a run of ``model`` computes, with hooks on its modules."""
    calls = Calls()
    transformer = model.engine.parts.denoiser.transformer
    text = model.text
    assert isinstance(text, TextEncoder)
    hooks = [
        text.encoder.register_forward_hook(calls.count("encoded")),
        transformer.condition_embedder.text_embedder.register_forward_hook(calls.count("projected")),
        *(block.attn2.to_k.register_forward_hook(calls.count("keys")) for block in transformer.blocks),
        transformer.proj_out.register_forward_hook(lambda _, inputs, __: calls.rows.append(len(inputs[0]))),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def run_to_end(model: Model, scale: float) -> WanGeneration:
    run = model.engine.prepare(replace(REQUEST, guidance_scale=scale))
    while run.step < run.total_steps:
        model.engine.denoise_step(run)
    return run


@pytest.mark.parametrize(
    ("distilled", "scale", "batched", "prompts", "rows"),
    [
        (True, 5.0, True, 1, [1] * 4),  # a distilled model takes no guidance, whatever the request says
        (True, 5.0, False, 1, [1] * 4),
        (False, 1.0, True, 1, [1] * 4),
        (False, 5.0, True, 2, [2] * 4),
        (False, 5.0, False, 2, [1] * 8),
    ],
)
def test_a_run_computes_and_keeps_a_negative_prompt_only_where_it_is_guided(
    distilled: bool, scale: float, batched: bool, prompts: int, rows: list[int]
) -> None:
    model = build_model(expand_timesteps=False, distilled=distilled)
    if not batched:
        model = replace(model, engine=remade(model.engine, batched_tokens=0))
    with counted(model) as calls:
        run = run_to_end(model, scale)
    assert calls.rows == rows
    assert (calls.encoded, calls.projected, calls.keys) == tuple(prompts * once for once in PROMPTS.values())
    assert len(run.embeddings) == prompts
    assert sum(len(keys.of_block(0).keys) for keys in run.prompts) == prompts
    # the cache of the text encoder has what was encoded
    assert isinstance(model.text, TextEncoder)
    assert model.text.cached_bytes == sum(embeddings.nbytes for embeddings in run.embeddings)


def reference(model: Model, request: GenerationRequest, noise: torch.Tensor, guided: int) -> torch.Tensor:
    """The latents by diffusers' parts: so many steps are guided, the others run the prompt alone."""
    pipeline = model.pipeline
    scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=request.flow_shift)
    scheduler.set_timesteps(request.steps)
    prompts = pipeline.encode_prompt(request.prompt, request.negative_prompt, max_sequence_length=512)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        velocity, without = (
            pipeline.transformer(latents, timestep[None], prompt, return_dict=False)[0] for prompt in prompts
        )
        if step < guided:
            velocity = without + request.guidance_scale * (velocity - without)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("batched", [True, False])
def test_the_last_steps_run_without_guidance_and_half_the_work(batched: bool) -> None:
    model = build_model(expand_timesteps=False)
    tokens = BATCHED_TOKENS if batched else 0
    engine = remade(model.engine, unguided_steps=0.3, batched_tokens=tokens)  # of four steps, one
    with counted(model) as calls:
        latents = replace(model, engine=engine).latents(REQUEST)
    assert calls.rows == ([2, 2, 2, 1] if batched else [1] * 7)
    noise = engine.prepare(REQUEST).latents
    with torch.inference_mode():
        expected = reference(model, REQUEST, noise, guided=3)
        torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)
        assert (latents - reference(model, REQUEST, noise, guided=4)).abs().max() > 0.005


def test_a_run_of_two_experts_goes_on_from_a_snapshot_in_steps_without_guidance() -> None:
    engine = build_model(expand_timesteps=False).engine
    experts = replace(engine.variant, boundary=0.95, guidance_scale_2=3.0)
    engine = remade(engine, variant=experts, low_noise=engine.parts.denoiser, unguided_steps=0.5)
    request = replace(REQUEST, steps=6, guidance_scale=5.0, guidance_scale_2=3.0)
    run = engine.prepare(request)
    steps = [(stage.guidance_scale, stage.end - stage.begin) for stage in run.stages]
    assert steps == [(5.0, 2), (3.0, 1), (1.0, 3)]
    for _ in range(4):
        engine.denoise_step(run)
    kept, later = engine.snapshot(run), engine.prepare(request)
    assert kept is not None
    engine.restore(later, kept())
    for each in (run, later):
        engine.denoise_step(each)
    assert torch.equal(later.latents, run.latents)
