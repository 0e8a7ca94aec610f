"""Guidance costs where it is asked for and nowhere else: a run without it computes and keeps one prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from models.conditioning.text_encoder import TextEncoder
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
    hooks = [
        model.pipeline.text_encoder.register_forward_hook(calls.count("encoded")),
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
