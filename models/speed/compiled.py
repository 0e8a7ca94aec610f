"""The transformer's block compiled, before the first run asks for it.

What is compiled are the parts between attention and exchanges, which call libraries anyway: so one compiled
block serves every kernel of attention and every group. It is compiled for any number of tokens at once, and
all blocks share it.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from models.errors import TuningError, first_line
from models.parallel.plan import ParallelPlan
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.transformer.block import EAGER, BlockParts
from models.transformer.denoiser import Denoiser
from models.variants import Variant

FORMS = 32
"""How many forms of a part may be compiled before a run fails: several kinds of block, batches, LoRAs."""

_SMALL = 64
"""Pixels each way of a video whose prompts go as one batch."""


def compiled_parts(backend: str | Callable[..., Any] = "inductor") -> BlockParts:
    """Parts that compile when they are first called, and share nothing with those of another call."""
    compiled = partial(
        torch.compile,
        fullgraph=True,
        dynamic=True,
        backend=backend,
        recompile_limit=FORMS,
        isolate_recompiles=True,
    )
    return BlockParts(*(compiled(getattr(EAGER, part.name)) for part in fields(BlockParts)))


def rehearse(denoiser: Denoiser, variant: Variant, plan: ParallelPlan, config: Any) -> None:
    """Compile what runs of a model will ask for: a forward of every form they take, at its default size.

    ``denoiser`` is one without a group, since the ranks of ``plan`` are not ready at the same time; it is
    given as many frames as make up one rank's share of the tokens. ``config``: the transformer's own.
    Raises ``TuningError`` where nothing can be compiled.
    """
    height, width = variant.height // variant.spatial_stride, variant.width // variant.spatial_stride
    frames = max(-(-variant.latent_frames(variant.num_frames) // plan.sequence), 2)
    shapes = [DummyShape(frames, height, width)]
    if plan.cfg == 1 and not variant.distilled:  # small videos, whose prompts go as one batch
        small = _SMALL // variant.spatial_stride
        shapes.append(DummyShape(2, small, small, prompts=2))
    if variant.expand_timesteps and "i2v" in variant.tasks:
        shapes += [replace(shape, timestep_per_frame=True) for shape in shapes]
    try:
        for shape in shapes:
            dummy_forward(denoiser, variant, config, shape)
    except TorchDynamoException as error:
        raise TuningError(f"compile does not work here: {_reason(error)}") from error


def _reason(error: TorchDynamoException) -> str:
    """What went wrong inside the compiler, in a line."""
    inner: Exception = getattr(error, "inner_exception", error)
    return first_line(inner)
