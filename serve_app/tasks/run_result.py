"""What a replica publishes at the end of a run."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunResult:
    """The video of one attempt, and what its client is told of how it was made."""

    artifact: str
    """Key of the video."""
    timings: Mapping[str, float]
    """Seconds by stage."""
    step: int
    """Steps done, of all fragments together: fewer than the spec's in a run that finished early."""
    notes: tuple[str, ...] = ()
    """All notes of the task, if the run added some; empty if it added none."""
    frames: int | None = None
    """Number of frames, if it is not that of the task's spec."""
    revised_prompt: str | None = None
    """What the prompt enhancer wrote: None if it was not asked, empty where nothing came of it."""
    resumed_step: int = 0
    """Steps that an earlier attempt had done, of all fragments together."""
