"""Skipping what hardly changes from step to step: the first-block cache.

The first block of a step is always run. What it adds to the tokens tells how much the whole step will differ
from the last one whose blocks all ran: where that is less than a threshold, the other blocks are taken to add
what they added then (github.com/chengzeyi/ParaAttention, "First Block Cache").
"""

import torch
from torch import Tensor

from models.attention.shard import Shard
from models.errors import TuningError
from models.parallel.mesh import Mesh
from models.variants import Variant


def check_cache(threshold: float, variant: Variant) -> None:
    """Raise ``TuningError`` where skipping cannot serve a model."""
    if threshold > 0 and variant.distilled:
        raise TuningError(
            f"cache_threshold must be 0 for {variant.name}: each of its few steps changes the video too much "
            f"for any to be skipped."
        )


class StepCache:
    """What one run remembers for one prompt, or one batch of them, under one expert.

    All tensors are a rank's own tokens ``[batch, rows, n, dim]``. The run's first prompt decides for all of
    its prompts, on whichever rank it is, so that a video does not depend on how prompts are dealt out.
    """

    def __init__(self, mesh: Mesh, threshold: float, leader: "StepCache | None" = None) -> None:
        """``leader``: the one that decides, of the prompt that goes first; None for that one."""
        self._mesh = mesh
        self._threshold = threshold
        self._leader = leader
        self._skipping = False
        self._first_added: Tensor | None = None
        """By the first block in the last whole step, for the leader's first prompt, ``[1, rows, n, dim]``."""
        self._others_added: Tensor | None = None
        """By all other blocks in that step."""

    @property
    def skipping(self) -> bool:
        """Whether the present step leaves out all blocks but the first."""
        return self._skipping if self._leader is None else self._leader.skipping

    def last(self, before: Tensor, first: Tensor, shard: Shard) -> Tensor | None:
        """What comes out of the last block, if this step may skip those between; None where they must run.

        ``before``: the tokens that went into the first block; ``first``: those that came out of it.
        """
        if self._leader is None:
            self._decide(shard.own(first[:1] - before[:1]))
        if not self.skipping or self._others_added is None:
            return None
        return first + self._others_added

    def remember(self, first: Tensor, last: Tensor) -> None:
        """Of a whole step: the tokens that came out of the first block, and of the last."""
        self._others_added = last - first

    def _decide(self, added: Tensor) -> None:
        self._skipping = self._first_added is not None and self._change(added) < self._threshold
        if not self._skipping:
            self._first_added = added

    def _change(self, added: Tensor) -> float:
        """By how much of itself the first block's part has changed, the same number on every rank."""
        assert self._first_added is not None
        parts = (added - self._first_added, self._first_added)
        sums = torch.stack([part.abs().sum(dtype=torch.float32) for part in parts])
        if self._mesh.index("cfg") > 0:
            sums.zero_()  # another prompt
        change, size = self._mesh.summed(sums).tolist()
        return change / size if size > 0 else 1.0


def step_caches(mesh: Mesh, threshold: float, prompts: int) -> tuple[StepCache | None, ...]:
    """One for each prompt, or batch of them, of a rank; the first decides. None where no step is skipped."""
    if threshold == 0:
        return (None,) * prompts
    leader = StepCache(mesh, threshold)
    return (leader, *(StepCache(mesh, threshold, leader) for _ in range(prompts - 1)))
