"""A run: one attempt at one task, generated in a thread, reported while it runs, and published at its end.

The module does not import Ray: ``Control`` is its interface to the coordinator.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from enum import StrEnum

from models.engine import Engine, Generation, GenerationRequest, Snapshot
from models.errors import EngineLost, ModelError
from models.generate import generate
from models.phase import Phase
from serve_app.errors import StoreUnavailable
from serve_app.files.artifacts import Artifacts
from serve_app.media.child_killed import ChildKilled
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_reading import VideoReadError
from serve_app.media.video_writer import DiskFull, VideoWriteError
from serve_app.replica.attempt_file import AttemptFile
from serve_app.replica.control import Control
from serve_app.replica.departure import Deadline, Departure, no_deadline
from serve_app.replica.earlier_video import EarlierVideo
from serve_app.replica.persistence import Persistence
from serve_app.replica.prompt_enhancer import NotEnhanced, PromptEnhancer
from serve_app.replica.report_pace import ReportPace
from serve_app.replica.run_checkpoints import Checkpoints, NoCheckpoints
from serve_app.replica.run_inputs import RunInputs
from serve_app.replica.run_previews import RunPreviews
from serve_app.replica.run_progress import RunProgress
from serve_app.tasks.command import Command
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.video_output import PLAIN

_LEAST_MARGIN_S = 5.0
"""Seconds before the end of its node by which a run has handed its task back, two heartbeats at least."""

_BRIEF_S = 0.2
"""Seconds that completing a file takes as a rule: it is worth no report before."""

_MODEL_FAILED = TaskError("model_error", "The model failed on this request")
_NOT_READ = TaskError("video_not_read", "The video that this one goes on from could not be read")
_NOT_WRITTEN = TaskError("video_not_written", "The video could not be encoded or stored")
_PLAIN = VideoEncoding()
_NONE_KEPT = NoCheckpoints()
_logger = logging.getLogger("ray.serve")


class Outcome(StrEnum):
    """The end of an attempt."""

    PUBLISHED = "published"
    FAILED = "failed"
    LEFT = "left"
    """The run was abandoned: the task was cancelled or given to another replica."""
    BROKEN = "broken"
    """The engine raised an unexpected error: its state cannot be trusted."""


class Hung(Exception):
    """The engine makes no progress; a thread cannot be killed, only its process."""


class _Abandoned(Exception):
    """The coordinator requires the run to be abandoned."""


class _Leaving(_Abandoned):
    """The run leaves so that another replica can go on with its task."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of the engine's part of a run: a file to complete, or the error that ended the run."""

    file: AttemptFile
    error: BaseException | None


class Run:
    """Runs one claimed task. Call ``enhance_prompt``, ``generate`` and ``finish``, each once.

    After ``generate`` the engine is free for the next task, while ffmpeg encodes the last frames of this one.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        artifacts: Artifacts,
        control: Control,
        *,
        heartbeat_s: float,
        step_timeout_s: float,
        encoding: VideoEncoding = _PLAIN,
        variant: str | None = None,
        deadline: Deadline = no_deadline,
        checkpoints: Checkpoints = _NONE_KEPT,
        progress: RunProgress | None = None,
    ) -> None:
        """``encoding``: as far as the task leaves it open; also the format of the engine's frames.

        ``variant``: that of the model, for the settings in the file; None: none are written. ``deadline``:
        when the node goes, before which the task is handed back.
        """
        self._task = task
        self._engine = engine
        self._artifacts = artifacts
        self._control = control
        self._heartbeat_s = heartbeat_s
        self._step_timeout_s = step_timeout_s
        # A coordinator of the version before sends a task without it.
        self._encoding = encoding.of(getattr(task.spec, "output", PLAIN))
        self._progress = progress or RunProgress(task.spec)
        self._notes: tuple[str, ...] = ()
        self._revised_prompt: str | None = getattr(task, "revised_prompt", None)
        self._abandoned = threading.Event()
        self._departure = Departure(self._progress, deadline, max(_LEAST_MARGIN_S, 2 * heartbeat_s))
        self._leaving = threading.Event()
        self._checkpoints = checkpoints
        self._resumed_step = 0
        # Shorter than what a run without progress is given, or it would be taken for hung.
        self._persistence = Persistence(self._abandoned, step_timeout_s / 2)
        self._file = AttemptFile(task, artifacts, self._persistence, self._encoding, variant)
        self._finish = threading.Event()
        self._previews = RunPreviews(engine, task, artifacts)
        self._moved = asyncio.Event()

    @property
    def is_whole(self) -> bool:
        """True unless the run went on from a checkpoint, and so did a part of the task's work."""
        return self._resumed_step == 0

    async def enhance_prompt(self, enhancer: PromptEnhancer | None) -> None:
        """Have the prompt written out if the client wants that and no earlier attempt has asked.

        Whatever goes wrong is a note, and the run goes on with the plain prompt; a run that is abandoned
        leaves the question at once. Needs no engine.
        """
        if self._revised_prompt is not None or not getattr(self._task, "enhance_prompt", False):
            return
        self._progress.entered(Phase.ENHANCING)
        asking = asyncio.create_task(self._ask(enhancer))
        try:
            while True:
                is_answered = asking.done()  # then this report has the answer, for an attempt after this one
                if not self._obey(await self._report()) or is_answered:
                    break
                await asyncio.wait([asking], timeout=self._heartbeat_s)
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    async def _ask(self, enhancer: PromptEnhancer | None) -> None:
        """Ask for the revised prompt; leave it empty, with a note, if there is none."""
        spec = self._task.spec
        revised = ""
        try:
            if enhancer is None:
                raise NotEnhanced("the service has no prompt enhancer any more")
            revised = await enhancer.enhance(spec.prompt, has_picture=spec.image_key is not None)
        except NotEnhanced as error:
            _logger.warning("task %s: its prompt was not enhanced: %s", self._task.uid, error)
            self._note((f"The prompt was not enhanced: {error}.",))
        self._revised_prompt = revised
        self._progress.enhanced()

    async def generate(self, engine_thread: Executor, files: Executor) -> Generated:
        """Generate every frame in ``engine_thread``.

        ``files``: the thread that opens and closes the video, so that the engine does not wait for either.

        Raises ``Hung`` or ``EngineLost``: this engine cannot be used again, but another one can run the task.
        """
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(engine_thread, copy_context().run, self._generate, loop, files)
        try:
            await self._follow(work)
        except asyncio.CancelledError:
            self._abandoned.set()
            raise
        error = work.exception()
        if isinstance(error, EngineLost):
            raise error
        return Generated(self._file, error)

    async def finish(self, generated: Generated, files: Executor) -> Outcome:
        """Complete the file and publish it, or report the error of the run."""
        task = self._task
        try:
            if generated.error is not None:
                raise generated.error
            await self._complete(generated.file, files)
        except (_Leaving, StoreUnavailable, DiskFull):
            await self._hand_back()
            return Outcome.LEFT
        except ChildKilled as error:
            _logger.warning("task %s: attempt %d is given up: %s", task.uid, task.attempt, error)
            await self._control.give_up(task.uid, task.attempt)
            return Outcome.LEFT
        except _Abandoned:
            return Outcome.LEFT
        except ModelError as error:
            return await self._fail(TaskError(error.code, str(error)), Outcome.FAILED)
        except (VideoReadError, VideoWriteError) as error:
            failure = _NOT_READ if isinstance(error, VideoReadError) else _NOT_WRITTEN
            _logger.exception("task %s: %s", task.uid, failure.message)
            return await self._fail(failure, Outcome.FAILED)
        except Exception:
            _logger.exception("task %s: the engine raised", task.uid)
            return await self._fail(_MODEL_FAILED, Outcome.BROKEN)
        if not await self._control.publish(task.uid, task.attempt, self._result()):
            return Outcome.LEFT
        self._checkpoints.drop()
        return Outcome.PUBLISHED

    async def _complete(self, file: AttemptFile, files: Executor) -> None:
        """Complete the file; report that the run is alive where this takes longer than usual."""
        self._progress.begin()
        work = asyncio.get_running_loop().run_in_executor(files, file.complete)
        self._progress.entered(Phase.WRITING)
        patience_s = _BRIEF_S
        while not (await asyncio.wait([work], timeout=patience_s))[0]:
            await self._report()
            patience_s = self._heartbeat_s
        await work
        self._progress.finished()

    async def _report(self) -> Command:
        """Report the position; return what is to be done with the run."""
        at = self._progress.position
        report = RunReport(at.step, at.progress, at.phase, self._notes, self._revised_prompt)
        return await self._control.report(self._task.uid, self._task.attempt, report)

    def _result(self) -> RunResult:
        return RunResult(
            artifact=self._artifacts.key(self._task.uid, self._task.attempt, self._encoding.output.format),
            timings=self._progress.timings,
            step=self._progress.position.step,
            notes=self._notes,
            frames=self._frames_if_fewer,
            revised_prompt=self._revised_prompt,
            resumed_step=self._resumed_step,
        )

    def _obey(self, command: Command) -> bool:
        """Take up the coordinator's answer; return whether the run goes on."""
        if not command:
            self._abandoned.set()
        self._previews.is_wanted = Command.SHOW in command
        if Command.FINISH in command:
            self._finish.set()
        if Command.HAND_BACK in command:
            self._departure.is_asked = True
        return bool(command)

    async def _fail(self, error: TaskError, outcome: Outcome) -> Outcome:
        if await self._control.fail(self._task.uid, self._task.attempt, error):
            self._checkpoints.drop()
        return outcome

    async def _follow(self, work: asyncio.Future[None]) -> None:
        """Report the begin, each step as the pace allows, and each heartbeat to the end. Raises ``Hung``."""
        work.add_done_callback(lambda _: self._moved.set())
        self._moved.set()  # begun: until that is told, its attempt may be taken for one that nobody runs
        pace = ReportPace(self._heartbeat_s)
        while not work.done():
            await asyncio.wait([work], timeout=pace.rest_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), self._heartbeat_s - pace.rest_s)
            self._moved.clear()
            if work.done():
                return
            position = self._progress.position
            if time.monotonic() - position.moved_at > self._step_timeout_s:
                raise Hung(f"no progress for {self._step_timeout_s} s at step {position.step}")
            if self._obey(await pace.timed(self._report())):
                await self._depart()

    async def _depart(self) -> None:
        """Leave at the next step if it is time to, or at once if it is late."""
        if self._departure.is_due:
            self._leaving.set()
        if self._departure.is_late:
            self._abandoned.set()
            await self._hand_back()

    async def _hand_back(self) -> None:
        _logger.info("task %s: attempt %d is handed back", self._task.uid, self._task.attempt)
        await self._control.hand_back(self._task)

    def _generate(self, loop: asyncio.AbstractEventLoop, files: Executor) -> None:
        """Generate in the engine's thread and write every frame to ffmpeg; ``finish`` completes the file."""
        self._check_abandoned()
        self._file.open(files)
        try:
            self._generate_frames(files, wake=lambda: loop.call_soon_threadsafe(self._moved.set))
        except BaseException as error:
            self._file.drop(error)
            raise

    def _generate_frames(self, files: Executor, wake: Callable[[], object]) -> None:
        ask, progress = self._persistence.ask, self._progress
        inputs = RunInputs(self._task.spec, self._artifacts)
        earlier = ask(lambda: EarlierVideo.of(self._task.spec, self._artifacts))
        request = ask(lambda: inputs.request(self._revised_prompt, earlier))
        current: Generation | None = None

        def prepared(generation: Generation) -> None:
            nonlocal current
            current = generation
            progress.prepared()
            self._note(generation.notes)
            self._check_abandoned()

        def stepped(done: int, total: int) -> None:
            progress.stepped(done, total)
            wake()
            self._check_abandoned()
            assert current is not None  # ``prepared`` comes before any step
            self._check_leaving(current)
            self._checkpoints.stepped(current)
            self._previews.stepped(current, files)

        def entered(phase: Phase) -> None:
            progress.entered(phase)
            if phase is not Phase.PREPARING:  # what a claimed task is at in any case
                wake()

        for frames in () if earlier is None else earlier.kept(self._encoding.pixel_format):
            self._check_abandoned()
            self._file.write(frames)
            progress.kept(len(frames))
        snapshots = self._resume(request)
        progress.begin()
        for frames in generate(
            self._engine,
            request,
            stepped,
            progress.decoded,
            on_prepared=prepared,
            on_phase=entered,
            is_enough=self._is_enough,
            pixel_format=self._encoding.pixel_format,
            snapshots=snapshots,
        ):
            self._check_abandoned()
            self._check_leaving(current)
            self._file.write(frames)
            progress.wrote(len(frames))
            wake()

        if self._progress.is_cut:
            self._note((self._progress.cut_note,))

    def _resume(self, request: GenerationRequest) -> Mapping[int, Snapshot]:
        """Return where an earlier attempt was, by fragment, and take that up; empty to begin anew."""
        snapshots = self._checkpoints.begin(request)
        if snapshots:
            newest = max(snapshots)
            done = self._resumed_step = newest * request.steps + snapshots[newest].step
            self._progress.resumed(done)
            which = f"Attempt {self._task.attempt} went on"
            self._note((f"{which} from step {done} of {request.total_steps}, which an earlier one kept.",))
        return snapshots

    def _is_enough(self) -> bool:
        return self._finish.is_set() and self._progress.cut()

    @property
    def _frames_if_fewer(self) -> int | None:
        frames = self._progress.frames
        return frames if self._progress.is_cut and frames != self._task.spec.total_frames else None

    def _note(self, notes: tuple[str, ...]) -> None:
        """Take up a fragment's notes, but for those that the submit or another fragment gave already."""
        known = self._notes or self._task.notes
        if new := tuple(note for note in notes if note not in known):
            self._notes = (*known, *new)

    def _check_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise _Abandoned

    def _check_leaving(self, run: Generation | None) -> None:
        if self._leaving.is_set():
            if run is not None:
                self._checkpoints.leave(run)
            raise _Leaving
