"""Queries, keys and values by one product: the same as by three, in any precision, each under its name."""

import copy

import torch

from models.speed.dummy_forward import DummyShape, dummy_forward
from models.speed.fp8 import quantise
from models.transformer.block import blocks_in_order
from models.transformer.denoiser import Denoiser
from models.transformer.projections import NAMES, join_projections, joined_projections

from .checkpoints import small, transformer

VARIANT = small("wan2.1-t2v-1.3b")


def test_joined_projections_predict_the_same_velocity() -> None:
    apart = transformer(VARIANT).requires_grad_(False)
    joined = copy.deepcopy(apart)
    join_projections(blocks_in_order(joined)[0])
    found, expected = (
        dummy_forward(Denoiser(model), VARIANT, model.config, DummyShape(2, 8, 8))
        for model in (joined, apart)
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    held, before = (sum(weight.nbytes for weight in model.parameters()) for model in (joined, apart))
    assert held == before


def test_each_projection_is_its_part_of_the_joined_one() -> None:
    model = transformer(VARIANT).requires_grad_(False)
    blocks = blocks_in_order(model)[0]
    plain = [getattr(blocks[1].attn1, name).weight.clone() for name in NAMES]
    join_projections(blocks)
    attn = blocks[1].attn1
    x = torch.randn(1, 5, attn.to_q.in_features)
    for weight, name in zip(plain, NAMES, strict=True):
        assert torch.equal(getattr(attn, name).weight, weight)
    for fp8 in (False, True):
        if fp8:
            quantise(model)
        whole = joined_projections(attn)(x).chunk(3, dim=-1)
        for part, name in zip(whole, NAMES, strict=True):
            torch.testing.assert_close(getattr(attn, name)(x), part, atol=1e-5, rtol=0)


def test_a_change_of_a_projections_weight_changes_the_joined_one() -> None:
    model = transformer(VARIANT).requires_grad_(False)
    blocks = blocks_in_order(model)[0]
    join_projections(blocks)
    join_projections(blocks)  # changes nothing
    attn = blocks[0].attn1
    x = torch.randn(1, 5, attn.to_q.in_features)
    before = joined_projections(attn)(x)
    model.get_parameter("blocks.0.attn1.to_k.weight").mul_(2.0)
    changed = (joined_projections(attn)(x) != before).chunk(3, dim=-1)
    assert [bool(part.any()) for part in changed] == [False, True, False]
