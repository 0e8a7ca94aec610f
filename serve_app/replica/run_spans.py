"""The spans of a run: the attempt, and below it each stage and each denoise step."""

import time
from itertools import count

from serve_app.replica.run import Outcome
from serve_app.tasks.task import Task
from serve_app.tracing.tracer import UNTRACED, Tracer, facts_of, traceparent_of


class RunSpans:
    """Tells the tracer of one attempt at a task that was submitted in a trace."""

    def __init__(self, tracer: Tracer, task: Task) -> None:
        parent = traceparent_of(task)
        self._tracer = UNTRACED if parent is None else tracer
        self._span = self._tracer.begin("run", parent, facts_of(task))
        self._steps = count(1)

    @property
    def traceparent(self) -> str | None:
        """The attempt's span, for what other processes tell of it; None where nothing is traced."""
        return self._span.traceparent

    def lap(self, stage: str, seconds: float) -> None:
        """Tell of a part of the run that ends now: a stage of a fragment, or one step of ``denoise_s``."""
        now, below = time.time(), self.traceparent
        if stage == "denoise_s":
            self._tracer.tell("step", below, now - seconds, now, {"wan.step": next(self._steps)})
        else:
            self._tracer.tell(stage.removesuffix("_s"), below, now - seconds, now)

    def end(self, outcome: Outcome | None) -> None:
        """End the run; ``outcome``: None if its engine was lost."""
        self._span.end(None if outcome is Outcome.PUBLISHED else outcome or "engine_lost")
