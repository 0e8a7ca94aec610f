"""One attempt at one task: generate in a thread, report meanwhile, publish at the end.

There is no Ray in here. What the coordinator says comes through ``Control``.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from models.engine import Engine, Generation, GenerationRequest, Picture
from models.errors import GroupLost, ModelError
from serve_app.files.artifacts import LocalArtifacts
from serve_app.media.source_image import SourceImage
from serve_app.media.video_writer import VideoWriteError, VideoWriter
from serve_app.tasks.task import Task, TaskError

_NEARLY_DONE = 0.99
_logger = logging.getLogger("ray.serve")


class Outcome(StrEnum):
    """How an attempt ended."""

    PUBLISHED = "published"
    FAILED = "failed"
    LEFT = "left"
    """It was cancelled, or given to another replica."""
    BROKEN = "broken"
    """The engine raised what it should not: its state cannot be trusted."""


class Control(Protocol):
    """What a run says to the coordinator. Each call waits for the answer."""

    async def report(self, uid: str, attempt: int, step: int, progress: float) -> bool: ...

    async def publish(self, uid: str, attempt: int, artifact: str, timings: Mapping[str, float]) -> bool: ...

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool: ...


class Hung(Exception):
    """The engine makes no progress; its thread cannot be stopped, only its process."""


class _Left(Exception):
    """The coordinator told the run to stop."""


@dataclass(slots=True)
class _Position:
    """How far the run is. Written by the engine's thread, read by the event loop."""

    step: int = 0
    progress: float = 0.0
    moved_at: float = field(default_factory=time.monotonic)


class Run:
    """Carries out one claimed task. Used once: ``generate``, then ``finish``.

    In between the engine is free for the next task, while ffmpeg encodes the last frames of this one.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        artifacts: LocalArtifacts,
        control: Control,
        *,
        heartbeat_s: float,
        step_timeout_s: float,
    ) -> None:
        self._task = task
        self._engine = engine
        self._artifacts = artifacts
        self._control = control
        self._heartbeat_s = heartbeat_s
        self._step_timeout_s = step_timeout_s
        self._position = _Position()
        self._leave = threading.Event()
        self._moved = asyncio.Event()
        self._timings: dict[str, float] = {}

    async def generate(self, engine: Executor, files: Executor) -> asyncio.Future[ExitStack]:
        """Make every frame on the ``engine`` thread; ``finish`` takes what comes of it.

        Raises ``Hung`` or ``GroupLost``: this engine cannot be used again, another can do the task.

        ``files`` is the thread that opens and closes the video, so that the engine waits for neither.
        """
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(engine, self._generate, loop, files)
        try:
            await self._follow(work)
        except asyncio.CancelledError:
            self._leave.set()
            raise
        if isinstance(lost := work.exception(), GroupLost):
            raise lost
        return work

    async def finish(self, generated: asyncio.Future[ExitStack], files: Executor) -> Outcome:
        """Complete the file and publish it, or tell why there is none."""
        task = self._task
        try:
            began = time.monotonic()
            video = generated.result()
            await asyncio.get_running_loop().run_in_executor(files, video.close)
            self._time("finish", began)
        except _Left:
            return Outcome.LEFT
        except ModelError as error:
            return await self._fail(TaskError(error.code, str(error)), Outcome.FAILED)
        except VideoWriteError:
            _logger.exception("task %s: the video was not written", task.uid)
            failure = TaskError("video_not_written", "The video could not be encoded or stored")
            return await self._fail(failure, Outcome.FAILED)
        except Exception:
            _logger.exception("task %s: the engine raised", task.uid)
            return await self._fail(
                TaskError("model_error", "The model failed on this request"), Outcome.BROKEN
            )
        artifact = self._artifacts.key(task.uid, task.attempt)
        published = await self._control.publish(task.uid, task.attempt, artifact, self._timings)
        return Outcome.PUBLISHED if published else Outcome.LEFT

    async def _fail(self, error: TaskError, outcome: Outcome) -> Outcome:
        await self._control.fail(self._task.uid, self._task.attempt, error)
        return outcome

    async def _follow(self, work: asyncio.Future[ExitStack]) -> None:
        """Report each step, and at least every heartbeat, until the thread is done."""
        task = self._task
        work.add_done_callback(lambda _: self._moved.set())
        while not work.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), self._heartbeat_s)
            self._moved.clear()
            if work.done():
                return
            if time.monotonic() - self._position.moved_at > self._step_timeout_s:
                raise Hung(f"no progress for {self._step_timeout_s} s at step {self._position.step}")
            if not await self._control.report(
                task.uid, task.attempt, self._position.step, self._position.progress
            ):
                self._leave.set()

    def _generate(self, loop: asyncio.AbstractEventLoop, files: Executor) -> ExitStack:
        """Hand every frame to ffmpeg (in the engine's thread); closing the answer completes the file."""
        opening = files.submit(self._open)
        try:
            self._make(opening, loop)
        except BaseException:
            video, _ = opening.result()
            with video:  # which drops the file, since it ends by an error
                raise
        return opening.result()[0]

    def _open(self) -> tuple[ExitStack, VideoWriter]:
        """Start ffmpeg; it is up long before the first frame."""
        spec = self._task.spec
        target = self._artifacts.attempt_path(self._task.uid, self._task.attempt)
        video = ExitStack()
        writer = VideoWriter(target, width=spec.width, height=spec.height, fps=spec.fps)
        return video, video.enter_context(writer)

    def _make(self, opening: Future[tuple[ExitStack, VideoWriter]], loop: asyncio.AbstractEventLoop) -> None:
        request = self._request()
        generation: Generation | None = None
        for _ in range(request.num_fragments):
            began = time.monotonic()
            generation = self._engine.prepare(request, after=generation)
            began = self._time("prepare", began)
            for _ in range(generation.total_steps):
                self._check_left()
                self._engine.denoise_step(generation)
                self._move_to(loop, generation)
            began = self._time("denoise", began)
            _, writer = opening.result()
            decoded = 0
            for frames in self._engine.decode(generation):
                self._check_left()
                writer.write(frames)
                decoded += len(frames)
                self._move_to(loop, generation, decoded / request.num_frames)
            self._time("decode", began)

    def _request(self) -> GenerationRequest:
        spec = self._task.spec
        return GenerationRequest.from_spec(
            spec, image=self._frame(spec.image_key), last_image=self._frame(spec.last_image_key)
        )

    def _frame(self, key: str | None) -> Picture | None:
        """A stored picture as a frame of the video."""
        if key is None:
            return None
        stored = SourceImage.from_png(self._artifacts.read_input(key))
        return stored.cover_crop(self._task.spec.width, self._task.spec.height)

    def _check_left(self) -> None:
        if self._leave.is_set():
            raise _Left

    def _move_to(self, loop: asyncio.AbstractEventLoop, run: Generation, decoded: float = 0.0) -> None:
        """Say how far the run is. ``decoded``, 0 … 1 of this fragment's frames, counts as one more step."""
        parts = run.total_steps + 1
        progress = (run.fragment * parts + run.step + decoded) / (run.request.num_fragments * parts)
        step = run.fragment * run.total_steps + run.step
        self._position = _Position(step, min(progress, _NEARLY_DONE))
        loop.call_soon_threadsafe(self._moved.set)

    def _time(self, stage: str, began: float) -> float:
        """Add what has gone by since to the stage's time."""
        now = time.monotonic()
        name = f"{stage}_s"
        self._timings[name] = round(self._timings.get(name, 0.0) + now - began, 4)
        return now
