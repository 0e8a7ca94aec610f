"""Tasks for the store's tests."""

from dataclasses import replace

from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.task import NewTask, Task, TaskSpec

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
