"""Previews of a run: made while somebody looks, stored as WebP, and never at the cost of the run."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image, ImageSequence

from models.engine import Frames, Generation, GenerationRequest
from models.errors import ModelError
from serve_app.errors import FileNotFound
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.preview_pictures import still, strip
from serve_app.replica.run import Outcome
from serve_app.replica.run_previews import RunPreviews
from testbed.paced_engine import PREVIEW_STRIDE
from tests.unit.run_stage import SPEC, TASK, Attentive, Coordinator, execute, run

LONG = replace(TASK, spec=replace(SPEC, steps=60))


class Shown(Attentive):
    """An engine that counts its previews; they are of three pictures."""

    previews = 0

    def preview(self, generation: Generation) -> Frames:
        self.previews += 1
        return np.concatenate([super().preview(generation)] * 3)


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)


async def outcome_of(artifacts: LocalArtifacts, coordinator: Coordinator, engine: Shown) -> Outcome:
    with ThreadPoolExecutor(1) as thread:
        return await execute(run(artifacts, coordinator, engine=engine, task=LONG), thread)


async def test_a_run_that_is_looked_at_has_a_preview(artifacts: LocalArtifacts) -> None:
    coordinator = Coordinator(shows=True)
    engine = Shown(coordinator)
    assert await outcome_of(artifacts, coordinator, engine) is Outcome.PUBLISHED
    assert engine.previews >= 1
    with Image.open(io.BytesIO(artifacts.read_preview("u1", 2, "still"))) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (SPEC.width // PREVIEW_STRIDE, SPEC.height // PREVIEW_STRIDE)
    with Image.open(io.BytesIO(artifacts.read_preview("u1", 2, "strip"))) as moving:
        assert moving.format == "WEBP"
    assert list(artifacts.task_ids_with_files()) == ["u1"]
    artifacts.delete_task_files("u1", None, None)
    assert list(artifacts.task_ids_with_files()) == []


def test_there_is_at_most_one_a_second_and_one_encoded_at_a_time(artifacts: LocalArtifacts) -> None:
    engine, now = Shown(Coordinator()), [0.0]
    previews = RunPreviews(engine, TASK, artifacts, clock=lambda: now[0])
    generation = engine.prepare(GenerationRequest.from_spec(SPEC))
    previews.is_wanted = True
    blocked = Event()
    with ThreadPoolExecutor(1) as files:

        def made_at(seconds: float) -> int:
            now[0] = seconds
            previews.stepped(generation, files)
            return engine.previews

        assert [made_at(0.0), made_at(0.9)] == [1, 1]
        files.submit(lambda: None).result()  # the first is encoded
        assert [made_at(0.9), made_at(1.0)] == [1, 2]
        files.submit(lambda: None).result()
        files.submit(blocked.wait)
        try:
            assert [made_at(2.0), made_at(9.0)] == [3, 3]  # the third waits in the thread
        finally:
            blocked.set()
        files.submit(lambda: None).result()
        assert made_at(9.0) == 4


async def test_a_run_that_nobody_looks_at_makes_none(artifacts: LocalArtifacts) -> None:
    coordinator = Coordinator()
    engine = Shown(coordinator)
    await outcome_of(artifacts, coordinator, engine)
    assert engine.previews == 0
    with pytest.raises(FileNotFound):
        artifacts.read_preview("u1", 2, "still")


async def test_a_preview_that_fails_costs_the_run_nothing(artifacts: LocalArtifacts) -> None:
    class Blind(Shown):
        def preview(self, generation: Generation) -> Frames:
            self.previews += 1
            raise ModelError("no memory for it")

    coordinator = Coordinator(shows=True)
    engine = Blind(coordinator)
    assert await outcome_of(artifacts, coordinator, engine) is Outcome.PUBLISHED
    assert engine.previews >= 1 and coordinator.failures == []


def test_a_strip_shows_all_pictures_for_as_long_as_the_video() -> None:
    pictures = np.zeros((3, 16, 24, 3), dtype=np.uint8)
    pictures[1], pictures[2] = 90, 200
    with Image.open(io.BytesIO(strip(pictures, seconds=1.5))) as moving:
        durations = [frame.copy().info["duration"] for frame in ImageSequence.Iterator(moving)]
        assert (durations, moving.size) == ([500] * 3, (24, 16))
    with Image.open(io.BytesIO(still(pictures))) as picture:
        level = picture.convert("RGB").getpixel((0, 0))
    assert isinstance(level, tuple) and abs(level[0] - 90) < 8
    strip(pictures[:1], seconds=0.1)
