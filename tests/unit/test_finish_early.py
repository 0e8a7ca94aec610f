"""A run that is told to finish early publishes what it has made."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import pytest

from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.run import Outcome
from tests.unit.run_stage import SPEC, TASK, Attentive, Coordinator, execute, run


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_run_that_is_to_finish_early_publishes_what_it_has_made_and_says_so(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor, fragments: int
) -> None:
    coordinator = Coordinator(finish_at_step=3)
    spec = replace(SPEC, steps=100, num_fragments=fragments, video_frames=8 * fragments + 1)
    engine = Attentive(coordinator)
    outcome = await execute(run(artifacts, coordinator, engine=engine, task=replace(TASK, spec=spec)), thread)
    assert outcome is Outcome.PUBLISHED
    (result,) = coordinator.published
    assert 3 <= result.step < 10
    made, _ = imageio_ffmpeg.count_frames_and_secs(str(artifacts.attempt_path("u1", 2)))
    assert made == 9 and result.frames == (None if fragments == 1 else 9)
    (note,) = result.notes
    done = f"after {result.step} of {100 * fragments} denoise steps, with 9 frames"
    assert note.startswith("Finished early") and done in note


async def test_a_run_that_has_done_its_steps_is_not_cut(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator(finish_at_step=SPEC.steps)
    engine = Attentive(coordinator)
    assert await execute(run(artifacts, coordinator, engine=engine), thread) is Outcome.PUBLISHED
    (result,) = coordinator.published
    assert (result.notes, result.frames, result.step) == ((), None, SPEC.steps)
