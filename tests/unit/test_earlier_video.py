"""A run that goes on from an earlier video: what the engine begins with, and what the file begins with."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.engine import Frames, Generation, GenerationRequest
from models.phase import OnPhase, untold
from models.pixel_format import PixelFormat
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.file_settings import GOES_ON, settings_in
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_reading import VideoReadError, read_video
from serve_app.media.video_writer import VideoWriter
from serve_app.replica.run import Outcome, Run
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import Task
from testbed.paced_engine import PacedEngine, PacedGeneration
from tests.unit.run_stage import SPEC, TASK, Coordinator, execute
from tests.unit.test_video_writer import decode, moving

WIDTH, HEIGHT = SPEC.width, SPEC.height
EARLIER = moving(17, WIDTH, HEIGHT)


class Remembering(PacedEngine):
    """An engine that keeps the tails that it was given."""

    def __init__(self) -> None:
        super().__init__(step_s=0)
        self.requests: list[GenerationRequest] = []

    def prepare(
        self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
    ) -> PacedGeneration:
        self.requests.append(request)
        return super().prepare(request, after, on_phase)


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    path = artifacts.attempt_path("earlier", 1)
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16, encoding=VideoEncoding(quality=1)) as writer:
        writer.write(EARLIER)
    artifacts.link_video("u1", artifacts.key("earlier", 1))
    artifacts.delete_task_files("earlier", None, None)
    return artifacts


def task_of(kept_ends: tuple[int, ...], end: int, key: str = "inputs/t-u1/earlier.mp4") -> Task:
    going_on = Continuation(end=end, tail=1, kept_ends=kept_ends, key=key)
    frames = going_on.kept_frames + SPEC.num_frames - 1
    return replace(TASK, spec=replace(SPEC, continues=going_on, video_frames=frames))


async def made(
    artifacts: LocalArtifacts, task: Task, pixel_format: PixelFormat
) -> tuple[Frames, GenerationRequest]:
    engine, coordinator = Remembering(), Coordinator()
    run = Run(
        task,
        engine,
        artifacts,
        coordinator,
        heartbeat_s=1,
        step_timeout_s=30,
        encoding=VideoEncoding(pixel_format, quality=1),
        variant="demo",
    )
    with ThreadPoolExecutor(1) as thread:
        assert await execute(run, thread) is Outcome.PUBLISHED, coordinator.failures
    path = artifacts.attempt_path("u1", 2)
    found = settings_in(path.read_bytes())
    assert found is not None and found[1][GOES_ON] is True
    (request,) = engine.requests
    return decode(path, WIDTH, HEIGHT), request


async def test_a_video_has_the_kept_frames_in_front_of_the_new_ones(artifacts: LocalArtifacts) -> None:
    frames, request = await made(artifacts, task_of((9,), 9), PixelFormat.RGB24)
    assert len(frames) == 9 + 8
    assert np.abs(frames[:9].astype(int) - EARLIER[:9]).mean() < 8
    assert request.tail is not None and request.tail.shape == (1, HEIGHT, WIDTH, 3)
    assert np.abs(request.tail[0].astype(int) - EARLIER[8]).mean() < 8
    assert request.fragments_before == 1


async def test_a_video_from_the_end_of_another_has_new_frames_alone(artifacts: LocalArtifacts) -> None:
    frames, request = await made(artifacts, task_of((), 17), PixelFormat.RGB24)
    assert len(frames) == 8 and request.fragments_before == 0
    assert request.tail is not None and np.abs(request.tail[0].astype(int) - EARLIER[16]).mean() < 8


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_frames_are_read_in_either_pixel_format(
    artifacts: LocalArtifacts, tmp_path: Path, pixel_format: PixelFormat
) -> None:
    path = artifacts.input_path("inputs/t-u1/earlier.mp4")
    chunks = read_video(path, 3, 14, width=WIDTH, height=HEIGHT, pixel_format=pixel_format)
    encoding = VideoEncoding(pixel_format, quality=1)
    with VideoWriter(tmp_path / "b.mp4", width=WIDTH, height=HEIGHT, fps=16, encoding=encoding) as writer:
        for frames in chunks:
            writer.write(frames)
    assert np.abs(decode(tmp_path / "b.mp4", WIDTH, HEIGHT).astype(int) - EARLIER[3:14]).mean() < 8


async def test_an_earlier_video_that_is_gone_or_too_short_fails_its_task_alone(
    artifacts: LocalArtifacts,
) -> None:
    path = artifacts.input_path("inputs/t-u1/earlier.mp4")
    with pytest.raises(VideoReadError):
        list(read_video(path, 10, 18, width=WIDTH, height=HEIGHT, pixel_format=PixelFormat.RGB24))
    for task in (task_of((), 17, "inputs/t-u1/none.mp4"), task_of((), 30)):
        coordinator = Coordinator()
        run = Run(task, Remembering(), artifacts, coordinator, heartbeat_s=1, step_timeout_s=30)
        with ThreadPoolExecutor(1) as thread:
            assert await execute(run, thread) is Outcome.FAILED
        assert [error.code for error in coordinator.failures] == ["video_not_read"]
