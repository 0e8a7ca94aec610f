"""The claims of a replica: sent as a run ends or just before; a task that is not run is handed back."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from serve_app.replica.claims import Claims
from serve_app.tasks.task import Task, TaskSpec
from serve_app.tasks.transitions import Status

SPEC = TaskSpec("a", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)


def task(name: str, work: float = 1.0) -> Task:
    fields: dict[str, Any] = dict.fromkeys(
        ("runner", "started_at", "finished_at", "lease_expires_at", "artifact", "error")
    )
    return Task(
        uid=name,
        id=name,
        seq=1,
        status=Status.RUNNING,
        model="demo",
        spec=SPEC,
        work=work,
        priority=0,
        owner="",
        notes=(),
        request={},
        save_path="x.mp4",
        attempt=1,
        attempts_left=2,
        step=0,
        progress=0.0,
        created_at=0.0,
        timings={},
        **fields,
    )


@dataclass
class Queue:
    """The coordinator's queue, as a list."""

    tasks: list[Task]
    handed_back: list[Task] = field(default_factory=list)
    asked: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def claim(self) -> Task | None:
        self.asked += 1
        await self.open.wait()
        return self.tasks.pop(0) if self.tasks else None

    async def hand_back(self, task: Task) -> None:
        self.handed_back.append(task)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(30):
            while self.asked < times:
                await asyncio.sleep(0)

    async def until_handed_back(self, uid: str) -> None:
        async with asyncio.timeout(30):
            while uid not in (each.uid for each in self.handed_back):
                await asyncio.sleep(0)


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_nothing_is_claimed_while_a_run_of_unknown_length_goes_on() -> None:
    queue = Queue([task("a"), task("b")])
    claims = Claims(queue.hand_back)
    first = await claims.take(queue.claim)
    assert first is not None
    async with claims.after(first, queue.claim) as prefetched:
        await until_idle()
        assert queue.asked == 1
        second = await prefetched.task()
    assert second is not None and second.uid == "b"
    assert queue.handed_back == []


async def test_a_long_run_is_not_timed() -> None:
    queue = Queue([task("a"), task("b")])
    claims = Claims(queue.hand_back)
    first = await claims.take(queue.claim)
    assert first is not None
    claims.ran(first, 2.5)
    async with claims.after(first, queue.claim):
        await until_idle()
    assert queue.asked == 1, "neither during the run nor after a run that was the last"


async def test_the_successor_of_a_short_run_is_claimed_while_it_runs() -> None:
    queue = Queue([task("a"), task("b")])
    claims = Claims(queue.hand_back)
    first = await claims.take(queue.claim)
    assert first is not None
    claims.ran(first, 0.001)
    async with claims.after(first, queue.claim) as prefetched:
        await queue.until_asked(2)
        assert prefetched.is_under_way
        second = await prefetched.task()
    assert second is not None and second.uid == "b"
    assert queue.asked == 2 and queue.handed_back == []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_claimed_task_that_is_not_run_here_is_handed_back(fails: bool) -> None:
    queue = Queue([task("a"), task("b")])
    claims = Claims(queue.hand_back)
    first = await claims.take(queue.claim)
    assert first is not None
    claims.ran(first, 0.001)

    async def run() -> None:
        async with claims.after(first, queue.claim):
            queue.open.clear()
            await queue.until_asked(2)
            asyncio.get_running_loop().call_soon(queue.open.set)  # the answer is still under way
            if fails:
                raise ValueError

    try:
        await run()
    except ValueError:
        assert fails
    assert [each.uid for each in queue.handed_back] == ["b"]


async def test_a_claimed_task_does_not_wait_for_a_run_that_takes_longer_than_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.replica.claims._PATIENCE_S", 0.0)
    queue = Queue([task("a"), task("b"), task("c")])
    claims = Claims(queue.hand_back)
    first = await claims.take(queue.claim)
    assert first is not None
    claims.ran(first, 0.001)
    async with claims.after(first, queue.claim) as prefetched:
        await queue.until_asked(2)
        await queue.until_handed_back("b")
        assert not prefetched.is_under_way
        assert queue.asked == 2, "no other is claimed while the run goes on"
        following = await prefetched.task()
    assert following is not None and following.uid == "c"
    assert [each.uid for each in queue.handed_back] == ["b"]


async def test_at_the_end_of_the_queue_there_is_no_next_task() -> None:
    queue = Queue([task("a")])
    claims = Claims(queue.hand_back)
    first = await claims.take(queue.claim)
    assert first is not None
    claims.ran(first, 0.001)
    async with claims.after(first, queue.claim) as prefetched:
        assert await prefetched.task() is None
    assert queue.handed_back == []
