"""Tasks for the store's tests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from models.phase import Phase
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.command import Command
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


async def claimed(store: TaskStore, ledger: RunLedger, name: str = "a") -> Task:
    await store.submit(new(name), ADMISSION)
    task = await ledger.claim("demo", "replica-1")
    assert task is not None
    return task


@dataclass(frozen=True)
class Direct:
    """An implementation of ``Control`` over a ledger in this process."""

    ledger: RunLedger

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
        return await self.ledger.report(
            uid,
            attempt,
            step=step,
            progress=progress,
            notes=notes,
            phase=phase,
            revised_prompt=revised_prompt,
        )

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
        task = await self.ledger.publish(
            uid,
            attempt,
            artifact=artifact,
            timings=timings,
            notes=notes,
            frames=frames,
            revised_prompt=revised_prompt,
        )
        return task is not None

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        return await self.ledger.fail(uid, attempt, error) is not None
