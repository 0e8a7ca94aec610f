"""The progress of a run: its step, its fraction done, and the seconds of each stage."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from models.phase import Phase
from models.tuning import WHOLE_STEPS, StepShares
from serve_app.tasks.task import TaskSpec
from serve_app.tasks.work import ForwardPasses

_NEARLY_DONE = 0.99
"""Highest progress before the video is committed."""


OnLap = Callable[[str, float], None]
"""Is told of each stage of a fragment, and each denoise step, at its end: the stage and its seconds."""


def untold(_stage: str, _seconds: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a run; ``moved_at`` is in the seconds of ``time.monotonic``."""

    step: int
    """Steps done, of all fragments together."""
    progress: float
    moved_at: float
    phase: Phase


class RunProgress:
    """Tracks a run's progress, written by the engine's thread; other threads may read ``position``."""

    def __init__(self, spec: TaskSpec, on_lap: OnLap = untold, shares: StepShares = WHOLE_STEPS) -> None:
        """``shares``: those of the steps that take less time than others."""
        self._spec = spec
        self._forwards = ForwardPasses(spec, shares)
        self._on_lap = on_lap
        self._step = 0
        self._total_steps = spec.total_steps
        self._decoded_fragments = 0
        self._decoded_frames = 0
        self.frames = 0
        """Frames written so far, of all fragments."""
        self.is_cut = False
        """True if the run ends before its last step."""
        self._seconds: dict[str, float] = {}
        self._lap_began = time.monotonic()
        self._phase = Phase.PREPARING
        self.position = Position(0, 0.0, self._lap_began, self._phase)
        self._done = 0.0
        """Steps and decodes done, of all fragments, in units of the dearest step; a decode counts as one."""
        self._paced_from: tuple[float, float] | None = None
        """The time from which the pace of the run is measured, and what was done by then."""

    @property
    def step_s(self) -> float | None:
        """Mean seconds of a step like the dearest, or of a fragment's decode, in this attempt; None before
        the first.
        """
        if self._paced_from is None or self._done <= self._paced_from[1]:
            return None
        began, done = self._paced_from
        return (self.position.moved_at - began) / (self._done - done)

    @property
    def rest_s(self) -> float | None:
        """Estimated seconds to the end, from the last step on; None before the first."""
        step_s = self.step_s
        return None if step_s is None else step_s * (self._all - self._done)

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by stage, summed over the fragments."""
        return {stage: round(seconds, 4) for stage, seconds in self._seconds.items()}

    def entered(self, phase: Phase) -> None:
        """Record the phase that begins. A long one is no progress in itself: the clock of a hang runs on."""
        self._phase = phase
        self.position = replace(self.position, phase=phase)

    def enhanced(self) -> None:
        """Go on to prepare: the prompt enhancer's time has a limit of its own, and is not the engine's."""
        self._phase = Phase.PREPARING
        self.position = replace(self.position, moved_at=time.monotonic(), phase=self._phase)

    def resumed(self, step: int) -> None:
        """Begin at a step, of all fragments together, that an earlier attempt has come to."""
        self._step = step
        self._move()

    def begin(self) -> None:
        """Start timing the next stage."""
        self._lap_began = time.monotonic()

    def prepared(self) -> None:
        """Add the time to the prepare stage, when a fragment is prepared."""
        self._lap("prepare_s")
        if self._paced_from is None:
            self._paced_from = self._lap_began, self._done

    def stepped(self, step: int, total_steps: int) -> None:
        """Record the steps done, of all fragments together, and add the time to the denoise stage."""
        self._lap("denoise_s")
        self._step, self._total_steps = step, total_steps
        self._move()

    def cut(self) -> bool:
        """End the steps here; return False if all are done, so that there is nothing to leave out."""
        self.is_cut = self.is_cut or self._step < self._total_steps
        return self.is_cut

    @property
    def cut_note(self) -> str:
        """Sentence for the client of a run that was cut."""
        steps = f"{self._step} of {self._total_steps} denoise steps"
        return f"Finished early, as was asked: after {steps}, with {self.frames} frames."

    def wrote(self, frames: int) -> None:
        """Record further frames of this fragment as decoded and written."""
        self.frames += frames
        self._decoded_frames += frames
        self._move()

    def kept(self, frames: int) -> None:
        """Record frames of an earlier video as written."""
        self.frames += frames
        self.position = replace(self.position, moved_at=time.monotonic())

    def decoded(self) -> None:
        """Add the time to the decode stage, when a fragment is fully decoded."""
        self._lap("decode_s")
        self._decoded_fragments += 1
        self._decoded_frames = 0

    def finished(self) -> None:
        """Add the time to the finish stage, when the file is complete."""
        self._lap("finish_s")

    def _move(self) -> None:
        # The decode of a fragment counts as one step, and each of its frames as a fraction of that step.
        frames = self._decoded_frames / self._spec.num_frames
        self._done = self._units(self._step) + self._decoded_fragments + frames
        progress = min(self._done / self._all, _NEARLY_DONE)
        self.position = Position(self._step, progress, time.monotonic(), self._phase)

    @property
    def _all(self) -> float:
        return self._units(self._total_steps) + self._spec.num_fragments

    def _units(self, steps: int) -> float:
        return self._forwards.of_first(steps) / self._forwards.of_dearest

    def _lap(self, stage: str) -> None:
        now = time.monotonic()
        seconds = now - self._lap_began
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        self._lap_began = now
        self._on_lap(stage, seconds)
