"""Warm-up: the videos that an engine makes before its first request, and the log of a start."""

import logging

import pytest

from models.engine import Generation, GenerationRequest
from models.errors import OutOfMemory
from models.phase import OnPhase, untold
from models.phases import Phases
from models.variants import VARIANTS
from serve_app.replica.warm_up import warm_up
from testbed.paced_engine import PacedEngine, PacedGeneration

DEMO = VARIANTS["demo"]
OWN = (DEMO.width, DEMO.height, DEMO.num_frames)


class Recording(PacedEngine):
    """An engine that notes the size of each video that it decodes to its end."""

    def __init__(self, most_frames: int = 1000) -> None:
        super().__init__(step_s=0.0)
        self.made: list[tuple[int, int, int]] = []
        self._most_frames = most_frames

    def prepare(
        self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
    ) -> PacedGeneration:
        if request.num_frames > self._most_frames:
            raise OutOfMemory("17 frames need 99.0 GB.")
        return super().prepare(request, after, on_phase)

    def _frames(self, run: PacedGeneration):
        yield from super()._frames(run)
        assert run.total_steps == 1
        self.made.append((run.request.width, run.request.height, run.request.num_frames))


def test_a_small_video_is_made_and_on_a_gpu_one_of_the_models_own_size() -> None:
    engine = Recording()
    warm_up(engine, DEMO)
    ((width, height, frames),) = engine.made
    assert width * height * frames < OWN[0] * OWN[1] * OWN[2]
    warm_up(engine, DEMO, own_size=True)
    assert engine.made[1:] == [(width, height, frames), OWN]


def test_a_gpu_too_small_for_the_models_own_size_still_serves_smaller_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Recording(most_frames=5)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        warm_up(engine, DEMO, own_size=True)
    assert len(engine.made) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "demo is not warmed up at its own size: 17 frames need 99.0 GB."
    ]
    with pytest.raises(OutOfMemory):
        warm_up(Recording(most_frames=1), DEMO)


def test_phases_are_told_in_order_with_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 101.5, 101.75, 110.0])
    monkeypatch.setattr("models.phases.time.monotonic", lambda: next(times))
    phases = Phases()
    for name in ("transformer", "VAE", "transformer"):
        phases.done(name)
    assert phases.seconds == {"transformer": 9.75, "VAE": 0.25}
    assert str(phases) == "transformer 9.8 s, VAE 0.2 s, together 10.0 s"
