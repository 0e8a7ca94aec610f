"""A run of one attempt: its reports, its outcome, and the files it leaves."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import psutil
import pytest

from models.engine import Frames, Generation
from models.errors import DeviceLost, EngineLost, GroupLost
from models.phase import Phase, untold
from models.pixel_format import PixelFormat
from serve_app.files import durable
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.source_image import SourceImage
from serve_app.replica.run import Hung, Outcome
from serve_app.tasks.command import Command
from serve_app.tasks.task import TaskError
from testbed.paced_engine import NOTE, PacedEngine
from tests.unit.run_stage import DEADLINE_S, SPEC, TASK, Attentive, Coordinator, execute, run


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


async def test_a_video_of_fragments_is_one_run_whose_progress_never_falls(artifacts, thread) -> None:
    spec = replace(SPEC, num_frames=9, video_frames=25, num_fragments=3)
    coordinator = Coordinator()
    outcome = await execute(run(artifacts, coordinator, task=replace(TASK, spec=spec)), thread)
    assert outcome is Outcome.PUBLISHED
    steps, progress = coordinator.steps, [report.progress for report in coordinator.reports]
    assert steps == sorted(steps) and steps[-1] > 8  # of 12; the last ones may not be reported
    assert progress == sorted(progress)
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(artifacts.attempt_path("u1", 2)))
    assert frames == 25
    (result,) = coordinator.published
    assert result.step == 12 and result.timings["denoise_s"] > 12 * 0.02


def left_over(artifacts: LocalArtifacts) -> list[Path]:
    folder = artifacts.attempt_path("u1", 2).parent
    return sorted(folder.iterdir())


async def test_a_run_publishes_a_video_of_its_own_attempt(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    assert await execute(run(artifacts, coordinator), thread) is Outcome.PUBLISHED
    (result,) = coordinator.published
    assert (result.artifact, result.step) == (artifacts.key("u1", 2), SPEC.steps)
    assert imageio_ffmpeg.count_frames_and_secs(str(artifacts.path_of(result.artifact)))[0] == SPEC.num_frames
    assert set(result.timings) == {"prepare_s", "denoise_s", "decode_s", "finish_s"}
    assert result.timings["denoise_s"] >= 0.08
    assert coordinator.failures == []


async def test_reports_go_up_step_by_step_and_never_say_done(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    await execute(run(artifacts, coordinator, engine=Attentive(coordinator)), thread)
    told = [(report.step, report.progress) for report in coordinator.reports]
    assert told == sorted(told)
    assert set(coordinator.steps) >= {1, 2, 3}
    assert all(0.0 <= progress < 1.0 for _, progress in told)


async def test_that_a_run_has_begun_is_told_before_its_first_heartbeat_is_due(artifacts, thread) -> None:
    coordinator = Coordinator()

    class Waiting(PacedEngine):
        """An engine that prepares nothing before the coordinator has heard of its run."""

        def prepare(self, request, after=None, on_phase=untold):
            deadline = time.monotonic() + DEADLINE_S
            while not coordinator.reports:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            return super().prepare(request, after, on_phase)

    begun = run(artifacts, coordinator, engine=Waiting(step_s=0), heartbeat_s=60.0)
    assert await execute(begun, thread) is Outcome.PUBLISHED
    assert coordinator.phases[0] is Phase.PREPARING


async def test_the_phases_of_a_run_are_reported_and_a_long_writing_keeps_its_lease(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    disk = threading.Event()

    class Watched(Attentive):
        """An engine that goes on only once the coordinator has heard of its phase."""

        def prepare(self, request, after=None, on_phase=untold):
            on_phase(Phase.ENCODING_IMAGE)
            self._hear(Phase.ENCODING_IMAGE)
            return super().prepare(request, after, on_phase)

        def decode(self, generation, pixel_format=PixelFormat.RGB24):
            self._hear(Phase.DECODING)
            return super().decode(generation, pixel_format)

        def _hear(self, phase: Phase) -> None:
            deadline = time.monotonic() + DEADLINE_S
            while phase not in coordinator.phases:
                assert time.monotonic() < deadline
                time.sleep(0.001)

    with ThreadPoolExecutor(1) as files:
        task = run(artifacts, coordinator, engine=Watched(coordinator))
        generated = await task.generate(thread, files)
        files.submit(disk.wait)  # before the file is completed
        finishing = asyncio.create_task(task.finish(generated, files))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while coordinator.phases.count(Phase.WRITING) < 3:
                    await asyncio.sleep(0.001)
        finally:
            disk.set()
        assert await finishing is Outcome.PUBLISHED
    unheard = {Phase.PREPARING, Phase.ENCODING_TEXT}  # the engine waits for none to hear of these
    assert [phase for phase, _ in groupby(coordinator.phases) if phase not in unheard] == [
        Phase.ENCODING_IMAGE,
        Phase.DENOISING,
        Phase.DECODING,
        Phase.WRITING,
    ]


class Striking(PacedEngine):
    """An engine beside which something happens in its first step."""

    def __init__(self, strike: Callable[[], object]) -> None:
        super().__init__(step_s=0)
        self._strike = strike

    def denoise_step(self, generation: Generation) -> None:
        if generation.step == 0:
            self._strike()
        super().denoise_step(generation)


def kill_ffmpeg() -> None:
    """Kill the ffmpeg that this process has started for the run."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := [p for p in psutil.Process().children() if p.name().startswith("ffmpeg")]):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for process in found:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its exit status is for the run


async def test_a_run_whose_ffmpeg_is_killed_is_given_up_and_has_failed_nothing(artifacts, thread) -> None:
    coordinator = Coordinator()
    outcome = await execute(run(artifacts, coordinator, engine=Striking(kill_ffmpeg)), thread)
    assert outcome is Outcome.LEFT
    assert coordinator.given_up == [2]
    assert (coordinator.failures, coordinator.handed_back, coordinator.published) == ([], [], [])
    assert left_over(artifacts) == []


async def test_a_run_that_meets_a_full_disk_is_handed_back(artifacts, thread, tmp_path, monkeypatch) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(durable, "temp_beside", lambda path: full)
    coordinator = Coordinator()
    assert await execute(run(artifacts, coordinator), thread) is Outcome.LEFT
    assert coordinator.handed_back == [2]
    assert (coordinator.failures, coordinator.given_up, coordinator.published) == ([], [], [])


@pytest.mark.parametrize(
    ("at_submit", "sent"),
    [((), (NOTE,)), (("Cut.",), ("Cut.", NOTE)), ((NOTE, "Cut."), ())],
    ids=["new", "one-more", "told-before"],
)
async def test_the_notes_of_a_run_follow_those_of_its_task_once(
    artifacts: LocalArtifacts,
    thread: ThreadPoolExecutor,
    at_submit: tuple[str, ...],
    sent: tuple[str, ...],
) -> None:
    coordinator = Coordinator()
    spec = replace(SPEC, prompt="[[note]]", num_fragments=2, video_frames=17)
    task = replace(TASK, spec=spec, notes=at_submit)
    await execute(run(artifacts, coordinator, engine=Attentive(coordinator), task=task), thread)
    assert [result.notes for result in coordinator.published] == [sent]
    assert coordinator.reports[-1].notes == sent


class CancelledInItsStep(Attentive):
    """An engine whose task is cancelled in mid-step; the step goes on for four more reports."""

    def denoise_step(self, generation: Generation) -> None:
        self._reports = len(self._coordinator.reports) + 4
        self._coordinator.leave_at_step = 0
        super().denoise_step(generation)


async def test_a_run_that_is_told_to_leave_stops_within_a_step_and_publishes_nothing(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator(leave_at_step=2)
    task = replace(TASK, spec=replace(SPEC, steps=100))
    outcome = await execute(run(artifacts, coordinator, engine=Attentive(coordinator), task=task), thread)
    assert outcome is Outcome.LEFT
    assert max(coordinator.steps) <= 3
    assert (coordinator.published, coordinator.failures, left_over(artifacts)) == ([], [], [])


async def test_a_long_step_is_reported_by_heartbeats_and_cancel_is_heard_in_it(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    engine = CancelledInItsStep(coordinator)
    assert await execute(run(artifacts, coordinator, engine=engine), thread) is Outcome.LEFT
    assert coordinator.steps[:4] == [0, 0, 0, 0]
    assert max(coordinator.steps) <= 1


@pytest.mark.parametrize(
    ("prompt", "code"),
    [("[[prepare-error]]", "invalid_request"), ("[[raise]]", "model_error"), ("[[oom]]", "out_of_memory")],
)
async def test_an_error_of_the_model_fails_the_task_with_its_code(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor, prompt: str, code: str
) -> None:
    coordinator = Coordinator()
    task = replace(TASK, spec=replace(SPEC, prompt=prompt))
    assert await execute(run(artifacts, coordinator, task=task), thread) is Outcome.FAILED
    assert [error.code for error in coordinator.failures] == [code]
    assert (coordinator.published, left_over(artifacts)) == ([], [])


async def test_the_models_error_is_told_where_ffmpeg_did_not_start_either(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    task = replace(TASK, spec=replace(SPEC, width=63, prompt="[[raise]]"))  # no video is of an odd width
    assert await execute(run(artifacts, coordinator, task=task), thread) is Outcome.FAILED
    assert coordinator.failures == [TaskError("model_error", "The prompt asks for a failure.")]


class Broken(PacedEngine):
    def denoise_step(self, generation: Generation) -> None:
        raise RuntimeError("secret/path: device-side assert")


async def test_an_unexpected_error_is_told_without_its_text(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    assert await execute(run(artifacts, coordinator, engine=Broken()), thread) is Outcome.BROKEN
    assert coordinator.failures == [TaskError("model_error", "The model failed on this request")]


class Misshapen(PacedEngine):
    def decode(self, generation, pixel_format=PixelFormat.RGB24) -> Iterator[Frames]:
        yield np.zeros((1, 48, 64, 3), dtype=np.uint8)
        raise RuntimeError("out of frames")


async def test_a_decode_that_breaks_off_leaves_no_file(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    coordinator = Coordinator()
    assert await execute(run(artifacts, coordinator, engine=Misshapen(step_s=0)), thread) is Outcome.BROKEN
    assert (coordinator.published, left_over(artifacts)) == ([], [])


@pytest.mark.slow
async def test_a_step_that_never_ends_is_found_hung(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    stuck = run(artifacts, Coordinator(), engine=PacedEngine(step_s=1.0), step_timeout_s=0.1)
    with ThreadPoolExecutor(1) as files, pytest.raises(Hung, match=r"no progress for 0\.1 s at step 0"):
        await stuck.generate(thread, files)


@pytest.mark.parametrize("error", [GroupLost("A rank is gone."), DeviceLost("The device failed.")])
async def test_a_lost_engine_fails_no_task(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor, error: EngineLost
) -> None:
    class Lost(PacedEngine):
        def denoise_step(self, generation: Generation) -> None:
            raise error

    coordinator = Coordinator()
    with pytest.raises(type(error)):
        await execute(run(artifacts, coordinator, engine=Lost()), thread)
    assert (coordinator.published, coordinator.failures, left_over(artifacts)) == ([], [], [])


async def test_a_refused_publish_is_no_success(artifacts: LocalArtifacts, thread: ThreadPoolExecutor) -> None:
    coordinator = Coordinator(accepts=False)
    assert await execute(run(artifacts, coordinator), thread) is Outcome.LEFT


class Watching(PacedEngine):
    image: Frames | None = None

    def prepare(self, request, after=None, on_phase=untold):
        self.image = request.image
        return super().prepare(request, after, on_phase)


async def test_the_stored_image_comes_to_the_engine_in_the_size_of_the_video(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    picture = np.zeros((100, 50, 3), dtype=np.uint8)
    picture[:, :, 0] = 200
    key = artifacts.put_input("u1", "image.png", SourceImage(picture).to_png())
    engine = Watching(step_s=0)
    task = replace(TASK, spec=replace(SPEC, image_key=key))
    assert await execute(run(artifacts, Coordinator(), engine=engine, task=task), thread) is Outcome.PUBLISHED
    assert engine.image is not None and engine.image.shape == (48, 64, 3)
    assert (engine.image == [200, 0, 0]).all()


async def test_a_coordinator_that_answers_late_does_not_hold_the_engine(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor
) -> None:
    loop, decoding = asyncio.get_running_loop(), asyncio.Event()

    class Late(Coordinator):
        async def report(self, *told: Any) -> Command:
            await asyncio.wait_for(decoding.wait(), DEADLINE_S)
            return await super().report(*told)

    class Telling(PacedEngine):
        def decode(self, generation, pixel_format=PixelFormat.RGB24) -> Iterator[Frames]:
            loop.call_soon_threadsafe(decoding.set)
            return super().decode(generation, pixel_format)

    outcome = await execute(run(artifacts, Late(), engine=Telling(step_s=0.02)), thread)
    assert outcome is Outcome.PUBLISHED
