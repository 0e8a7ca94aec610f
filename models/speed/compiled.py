"""Compilation of the transformer's block with torch.compile, before the first run.

Compiles the parts between attention kernels and communication, so that one compiled block serves every
attention kernel and every group. Shapes are dynamic in the number of tokens, and all blocks share one
compilation.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch

from models.errors import TuningError, first_line
from models.parallel.plan import ParallelPlan
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.transformer.block import BlockParts, uncompiled_parts
from models.transformer.denoiser import Denoiser
from models.variants import Variant

FORMS = 32
"""Number of compiled specialisations of a part before a run fails: kinds of block, batch sizes, LoRAs."""

_SMALL = 64
"""Width and height, in pixels, of a video small enough for both prompts to be one batch."""


def compiled_parts(plan: ParallelPlan, backend: str | Callable[..., Any] = "inductor") -> BlockParts:
    """Return block parts that compile at their first call, independent of those of another call (before
    torch 2.13, but for the limit on their forms).

    What is compiled are the eager operations: the compiler fuses them in its own way.
    """
    compiled = partial(torch.compile, fullgraph=True, dynamic=True, backend=backend, **_limit())
    eager = uncompiled_parts(plan)
    return BlockParts(
        operations=eager.operations,
        together=eager.together,
        attention_input=compiled(eager.attention_input),
        projections=compiled(eager.projections),
        values=compiled(eager.values),
        keys=compiled(eager.keys),
        queries=compiled(eager.queries),
        after_attention=compiled(eager.after_attention),
    )


def _limit() -> dict[str, Any]:
    """Return the options by which ``torch.compile`` allows ``FORMS`` specialisations of each part.

    A torch before 2.13 has no such options: there the limit is set for the whole process.
    """
    if "recompile_limit" in signature(torch.compile).parameters:
        return {"recompile_limit": FORMS, "isolate_recompiles": True}
    from torch._dynamo import config as dynamo  # the compiler takes two seconds to import, so not before

    dynamo.recompile_limit = max(dynamo.recompile_limit, FORMS)
    return {}


def rehearse(denoiser: Denoiser, variant: Variant, plan: ParallelPlan, config: Any) -> None:
    """Compile ahead of the first run, by a dummy forward of every form that runs of a model take, at its
    default size.

    ``denoiser``: one without a group, since the ranks of ``plan`` are not ready at the same time; its dummy
    forward has about one rank's share of the tokens. ``config``: the transformer's configuration.

    Raises ``TuningError`` if torch.compile does not work here.
    """
    from torch._dynamo.exc import TorchDynamoException

    height, width = variant.height // variant.spatial_stride, variant.width // variant.spatial_stride
    frames = max(-(-variant.latent_frames(variant.num_frames) // plan.sequence), 2)
    shapes = [DummyShape(frames, height, width)]
    if plan.cfg == 1 and not variant.distilled:  # small videos, whose prompts are one batch
        small = _SMALL // variant.spatial_stride
        shapes.append(DummyShape(2, small, small, prompts=2))
    if variant.expand_timesteps and "i2v" in variant.tasks:
        shapes += [replace(shape, timestep_per_frame=True) for shape in shapes]
    try:
        for shape in shapes:
            dummy_forward(denoiser, variant, config, shape)
    except TorchDynamoException as error:
        raise TuningError(f"compile does not work here: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the first line of the compiler's inner error."""
    inner: Exception = getattr(error, "inner_exception", error)
    return first_line(inner)
