"""A run for tests: its task, a coordinator that answers as it is told, and an engine that waits for it."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from models.engine import Engine, Generation
from models.phase import Phase
from serve_app.files.artifacts import LocalArtifacts
from serve_app.replica.run import Outcome, Run
from serve_app.tasks.command import Command
from serve_app.tasks.task import Task, TaskError, TaskSpec
from serve_app.tasks.transitions import Status
from testbed.paced_engine import PacedEngine

DEADLINE_S = 20
SPEC = TaskSpec("a cat", "", 64, 48, 9, 16, 4, 5.0, 5.0, 1)
TASK = Task(
    uid="u1",
    id="t1",
    seq=1,
    status=Status.RUNNING,
    model="demo",
    spec=SPEC,
    work=1.0,
    priority=0,
    owner="",
    notes=(),
    request={},
    save_path="outputs/videos/t1.mp4",
    attempt=2,
    attempts_left=1,
    runner="r",
    step=0,
    progress=0.0,
    created_at=0.0,
    started_at=0.0,
    finished_at=None,
    lease_expires_at=None,
    artifact=None,
    error=None,
    timings={},
)


@dataclass
class Coordinator:
    """A coordinator that records a run's calls and gives set answers."""

    leave_at_step: int | None = None
    finish_at_step: int | None = None
    shows: bool = False
    accepts: bool = True
    reports: list[tuple[int, float]] = field(default_factory=list)
    published: list[tuple[str, Mapping[str, float]]] = field(default_factory=list)
    reported_notes: list[tuple[str, ...]] = field(default_factory=list)
    published_notes: list[tuple[str, ...]] = field(default_factory=list)
    published_frames: list[int | None] = field(default_factory=list)
    failures: list[TaskError] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    reported_prompts: list[str | None] = field(default_factory=list)
    published_prompts: list[str | None] = field(default_factory=list)

    async def report(
        self,
        uid: str,
        attempt: int,
        step: int,
        progress: float,
        notes: tuple[str, ...],
        phase: Phase,
        revised_prompt: str | None,
    ) -> Command:
        assert (uid, attempt) == ("u1", 2)
        self.phases.append(phase)
        self.reported_prompts.append(revised_prompt)
        self.reported_notes.append(notes)
        self.reports.append((step, progress))
        if self.leave_at_step is not None and step >= self.leave_at_step:
            return Command.LEAVE
        enough = self.finish_at_step is not None and step >= self.finish_at_step
        shown = Command.SHOW if self.shows else Command.LEAVE
        return Command.GO_ON | shown | (Command.FINISH if enough else Command.LEAVE)

    async def publish(
        self,
        uid: str,
        attempt: int,
        artifact: str,
        timings: Mapping[str, float],
        notes: tuple[str, ...],
        frames: int | None,
        revised_prompt: str | None,
    ) -> bool:
        self.published_prompts.append(revised_prompt)
        self.published_frames.append(frames)
        self.published_notes.append(notes)
        self.published.append((artifact, timings))
        return self.accepts

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        self.failures.append(error)
        return True


async def execute(run: Run, thread: ThreadPoolExecutor) -> Outcome:
    with ThreadPoolExecutor(1) as files:
        return await run.finish(await run.generate(thread, files), files)


def run(
    artifacts: LocalArtifacts,
    coordinator: Coordinator,
    *,
    engine: Engine | None = None,
    task: Task = TASK,
    heartbeat_s: float = 0.02,
    step_timeout_s: float = 30.0,
) -> Run:
    engine = engine or PacedEngine(step_s=0.02)
    return Run(task, engine, artifacts, coordinator, heartbeat_s=heartbeat_s, step_timeout_s=step_timeout_s)


class Attentive(PacedEngine):
    """An engine whose step ends only once the coordinator has heard of all earlier steps."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(step_s=0)
        self._coordinator = coordinator
        self._reports = 0

    def denoise_step(self, generation: Generation) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not self._heard(generation.step):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        super().denoise_step(generation)

    def _heard(self, step: int) -> bool:
        heard = list(self._coordinator.reports)
        return len(heard) >= self._reports and max((step for step, _ in heard), default=0) >= step
