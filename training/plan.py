"""The number of steps of each part of the training."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Extent of the training: clips, steps and batch sizes of each part."""

    seed: int = 1
    start: Path | None = None
    """The folder of a model whose layers are taken over as far as they fit; None: random weights."""
    clips: int = 20_000
    vae_steps: int = 6000
    vae_batch: int = 4
    flow_steps: int = 6000
    flow_batch: int = 128
    student_clips: int = 8192
    student_steps: int = 3000
    scored: int = 100
    compiled: bool = True
    """Compile the blocks: twice as fast, and needs a C++ compiler on a CPU."""
