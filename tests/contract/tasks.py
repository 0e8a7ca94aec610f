"""Tasks for the store's tests."""

from dataclasses import dataclass, replace
from typing import Any

from models.phase import Phase
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.command import Command
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import NewTask, Task, TaskError, TaskSpec

SPEC = TaskSpec(
    prompt="a cat",
    negative_prompt="",
    width=64,
    height=64,
    num_frames=5,
    fps=16,
    steps=4,
    guidance_scale=5.0,
    guidance_scale_2=None,
    flow_shift=5.0,
    seed=1,
)
ADMISSION = Admission(max_queued=100, max_attempts=3, retry_after_s=7)


def new(name: str, **changes: object) -> NewTask:
    task = NewTask(
        uid=f"uid-{name}", id=name, model="demo", spec=SPEC, work=10.0, save_path=f"videos/{name}.mp4"
    )
    return replace(task, **changes)  # type: ignore[arg-type]


def at(step: int, progress: float, phase: Phase = Phase.DENOISING, **told: Any) -> RunReport:
    """Return the report of a run that is at ``step``."""
    return RunReport(step, progress, phase, **told)


def made(artifact: str = "x", step: int = SPEC.steps, **told: Any) -> RunResult:
    """Return the result of a run that has done ``step`` steps."""
    return RunResult(artifact, told.pop("timings", {}), step, **told)


async def claimed(store: TaskStore, ledger: RunLedger, name: str = "a") -> Task:
    await store.submit(new(name), ADMISSION)
    task = await ledger.claim("demo", "replica-1")
    assert task is not None
    return task


@dataclass(frozen=True)
class Direct:
    """An implementation of ``Control`` over a ledger in this process."""

    ledger: RunLedger

    async def report(self, uid: str, attempt: int, report: RunReport) -> Command:
        return await self.ledger.report(uid, attempt, report)

    async def publish(self, uid: str, attempt: int, result: RunResult) -> bool:
        return await self.ledger.publish(uid, attempt, result) is not None

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        return await self.ledger.fail(uid, attempt, error) is not None

    async def give_up(self, uid: str, attempt: int) -> bool:
        return await self.ledger.give_up(uid, attempt) is not None

    async def hand_back(self, task: Task) -> None:
        await self.ledger.hand_back(task.uid, task.attempt)
