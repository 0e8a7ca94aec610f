"""First-block cache: skips blocks in steps whose result would hardly change.

The first block of a step always runs. The change in its residual (its output minus its input) since the last
full step predicts how much the whole step changes: below a threshold, the other blocks are skipped and their
residual of that last full step is used again (github.com/chengzeyi/ParaAttention, "First Block Cache").
"""

import torch
from torch import Tensor

from models.attention.shard import Shard
from models.errors import TuningError
from models.parallel.mesh import Mesh
from models.variants import Variant


def check_cache(threshold: float, variant: Variant) -> None:
    """Raise ``TuningError`` if a threshold is set for a distilled model, which has no steps to spare."""
    if threshold > 0 and variant.distilled:
        raise TuningError(
            f"cache_threshold must be 0 for {variant.name}: each of its few steps changes the video too much "
            f"for any to be skipped."
        )


class StepCache:
    """Residuals of one run for one prompt, or one batch of prompts, under one expert.

    All tensors are a rank's own tokens ``[batch, rows, n, dim]``. The run's first prompt decides for all of
    its prompts, on whichever rank it is, so that the video does not depend on how prompts are spread over
    ranks.
    """

    def __init__(self, mesh: Mesh, threshold: float, leader: "StepCache | None" = None) -> None:
        """``leader``: the cache of the first prompt, which decides; None for that cache itself."""
        self._mesh = mesh
        self._threshold = threshold
        self._leader = leader
        self._skipping = False
        self._first_residual: Tensor | None = None
        """First block's residual in the last full step, for the first prompt, ``[1, rows, n, dim]``."""
        self._others_residual: Tensor | None = None
        """Residual of all other blocks together in that step."""

    @property
    def skipping(self) -> bool:
        """True if the present step skips all blocks but the first."""
        return self._skipping if self._leader is None else self._leader.skipping

    def last(self, before: Tensor, first: Tensor, shard: Shard) -> Tensor | None:
        """Return the predicted output of the last block if this step may skip the others; None where they
        must run.

        ``before``: the input of the first block; ``first``: its output.
        """
        if self._leader is None:
            self._decide(shard.own(first[:1] - before[:1]))
        if not self.skipping or self._others_residual is None:
            return None
        return first + self._others_residual

    def remember(self, first: Tensor, last: Tensor) -> None:
        """Record a full step, from the output of the first block and of the last."""
        self._others_residual = last - first

    def _decide(self, residual: Tensor) -> None:
        self._skipping = self._first_residual is not None and self._change(residual) < self._threshold
        if not self._skipping:
            self._first_residual = residual

    def _change(self, residual: Tensor) -> float:
        """Return the relative change (L1) of the first block's residual, the same on every rank."""
        assert self._first_residual is not None
        parts = (residual - self._first_residual, self._first_residual)
        sums = torch.stack([part.abs().sum(dtype=torch.float32) for part in parts])
        if self._mesh.index("cfg") > 0:
            sums.zero_()  # this rank has another prompt, which does not decide
        change, size = self._mesh.all_reduce_sum(sums).tolist()
        return change / size if size > 0 else 1.0


def step_caches(mesh: Mesh, threshold: float, prompts: int) -> tuple[StepCache | None, ...]:
    """Return a cache per prompt, or batch of prompts, of a rank, the leader first; None without skipping."""
    if threshold == 0:
        return (None,) * prompts
    leader = StepCache(mesh, threshold)
    return (leader, *(StepCache(mesh, threshold, leader) for _ in range(prompts - 1)))
