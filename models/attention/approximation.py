"""Attention in 8 bits or of fewer keys, in place of the exact one where that changes a video least."""

from dataclasses import dataclass

from models.attention.kernels import AttentionKernel


@dataclass(frozen=True, slots=True)
class Approximation:
    """A kernel for most of a run's self-attention: not in its first steps nor in the first blocks."""

    kernel: AttentionKernel
    exact_blocks: int = 1
    """Number of the blocks, the first ones, that attend exactly in every step."""
    in_order: bool = False
    """True of a kernel that goes by the tokens' places: they are put in ``neighbourhood_order``
    once, before the first block, and back after the last."""
