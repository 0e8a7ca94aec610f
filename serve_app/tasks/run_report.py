"""What a replica tells of a run while it goes on."""

from dataclasses import dataclass

from models.phase import Phase
from serve_app.tasks.replica import Replica


@dataclass(frozen=True, slots=True)
class RunReport:
    """The progress of one attempt; each report has all of it, so a lost one is made good by the next."""

    step: int
    """Steps done, of all fragments together."""
    progress: float
    """Fraction done, below 1.0."""
    phase: Phase
    notes: tuple[str, ...] = ()
    """All notes of the task, if the run added some; empty if it added none."""
    revised_prompt: str | None = None
    """What the prompt enhancer wrote: None before it was asked, empty where nothing came of it."""
    replica: Replica | None = None
    """The heartbeat of the replica that runs it, which then need not send one by itself."""
