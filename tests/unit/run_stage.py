"""A run for tests: its task, a coordinator that answers as it is told, and an engine that waits for it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from models.engine import Engine, Generation
from models.phase import Phase
from serve_app.files.artifacts import Artifacts
from serve_app.replica.departure import Deadline, no_deadline
from serve_app.replica.run import Outcome, Run
from serve_app.replica.run_checkpoints import Checkpoints, NoCheckpoints
from serve_app.tasks.command import Command
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
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
    wants_back: bool = False
    reports: list[RunReport] = field(default_factory=list)
    published: list[RunResult] = field(default_factory=list)
    failures: list[TaskError] = field(default_factory=list)
    handed_back: list[int] = field(default_factory=list)
    """The attempts whose task was handed back."""
    given_up: list[int] = field(default_factory=list)
    """The attempts that the machine failed."""

    @property
    def phases(self) -> list[Phase]:
        return [report.phase for report in self.reports]

    @property
    def steps(self) -> list[int]:
        return [report.step for report in self.reports]

    async def report(self, uid: str, attempt: int, report: RunReport) -> Command:
        assert (uid, attempt) == ("u1", 2)
        self.reports.append(report)
        if self.leave_at_step is not None and report.step >= self.leave_at_step:
            return Command.LEAVE
        enough = self.finish_at_step is not None and report.step >= self.finish_at_step
        shown = Command.SHOW if self.shows else Command.LEAVE
        if self.wants_back:
            return Command.GO_ON | Command.HAND_BACK
        return Command.GO_ON | shown | (Command.FINISH if enough else Command.LEAVE)

    async def publish(self, uid: str, attempt: int, result: RunResult) -> bool:
        assert (uid, attempt) == ("u1", 2)
        self.published.append(result)
        return self.accepts

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        self.failures.append(error)
        return True

    async def give_up(self, uid: str, attempt: int) -> bool:
        self.given_up.append(attempt)
        return True

    async def hand_back(self, task: Task) -> None:
        self.handed_back.append(task.attempt)


async def execute(run: Run, thread: ThreadPoolExecutor) -> Outcome:
    with ThreadPoolExecutor(1) as files:
        return await run.finish(await run.generate(thread, files), files)


def run(
    artifacts: Artifacts,
    coordinator: Coordinator,
    *,
    engine: Engine | None = None,
    task: Task = TASK,
    heartbeat_s: float = 0.02,
    step_timeout_s: float = 30.0,
    deadline: Deadline = no_deadline,
    checkpoints: Checkpoints | None = None,
) -> Run:
    return Run(
        task,
        engine or PacedEngine(step_s=0.02),
        artifacts,
        coordinator,
        heartbeat_s=heartbeat_s,
        step_timeout_s=step_timeout_s,
        deadline=deadline,
        checkpoints=checkpoints or NoCheckpoints(),
    )


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
        heard = self._coordinator.steps
        return len(heard) >= self._reports and max(heard, default=0) >= step
