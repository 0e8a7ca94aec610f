"""Dispatch: as many tickets as there is work and room, and a lost replica's task given up at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from serve_app.coordinator.dispatch import Dispatcher, ReplicaLost
from serve_app.coordinator.room import Room
from serve_app.files import free_disk
from serve_app.files.free_disk import FreeDisk
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.fair_share import Share, Shares
from serve_app.tasks.task import NewTask, Task, TaskSpec
from serve_app.tasks.transitions import Status
from tests.contract.tasks import made

SPEC = TaskSpec("a", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)
DEADLINE_S = 10


@dataclass
class Replicas:
    """A stand-in for the model deployment that holds each ticket until the test lets it end."""

    tickets: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    lost: list[Task] = field(default_factory=list)
    free_bytes: int = 100
    """On the disk, of 100 that a task needs."""

    async def send(self, model: str, ticket: str) -> None:
        self.tickets[ticket] = asyncio.get_running_loop().create_future()
        await self.tickets[ticket]

    async def on_lost(self, task: Task) -> None:
        self.lost.append(task)


@dataclass
class Scene:
    store: TaskStore
    ledger: RunLedger
    replicas: Replicas
    dispatcher: Dispatcher

    async def submit(self, *names: str) -> None:
        for name in names:
            new = NewTask(uid=name, id=name, model="demo", spec=SPEC, work=1.0, save_path=f"{name}.mp4")
            await self.store.submit(new, Admission(100, 3, 1))

    async def claim(self, ticket: str) -> Task:
        task = await self.ledger.claim("demo", "replica")
        assert task is not None
        self.dispatcher.claimed(ticket, task)
        return task

    async def look(self) -> list[str]:
        """Look twice, so that a ticket too many would be sent; return all tickets sent so far."""
        for _ in range(2):
            await self.dispatcher.look()
            await asyncio.sleep(0)  # lets the tickets reach the replicas
        return list(self.replicas.tickets)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def scene(database: Database, *, window: int, shares: Shares | None = None) -> AsyncIterator[Scene]:
    ledger = await RunLedger.take_lead(database, lease_s=30, grace_s=10, shares=shares)
    replicas = Replicas()
    free = FreeDisk(lambda: replicas.free_bytes, least_bytes=100)
    dispatcher = Dispatcher(
        ledger,
        ["demo"],
        lambda model: window,
        replicas.send,
        replicas.on_lost,
        may_begin=Room(free).is_there,
    )
    yield Scene(TaskStore(database), ledger, replicas, dispatcher)
    for ticket in replicas.tickets.values():
        if not ticket.done():
            ticket.set_result(None)
    await asyncio.sleep(0)


MakeScene = Callable[[int], Awaitable[Scene]]


@pytest_asyncio.fixture
async def make_scene(database: Database) -> AsyncIterator[MakeScene]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(window: int) -> Scene:
            return await stack.enter_async_context(scene(database, window=window))

        yield make


async def test_one_task_makes_one_ticket_however_often_it_is_looked_at(make_scene: MakeScene) -> None:
    scene = await make_scene(4)
    await scene.submit("a")
    assert len(await scene.look()) == 1


async def test_on_a_full_disk_nothing_is_begun_and_the_log_says_so_once(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(free_disk, "_MAX_AGE_S", 0.0)
    scene = await make_scene(4)
    scene.replicas.free_bytes = 99
    await scene.submit("a", "b")
    assert await scene.look() == await scene.look() == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    scene.replicas.free_bytes = 100
    assert len(await scene.look()) == 2


async def test_the_window_is_never_exceeded(make_scene: MakeScene) -> None:
    scene = await make_scene(2)
    await scene.submit("a", "b", "c")
    assert len(await scene.look()) == 2


async def test_the_end_of_a_ticket_makes_room_for_the_next(make_scene: MakeScene) -> None:
    scene = await make_scene(1)
    await scene.submit("a", "b")
    (first,) = await scene.look()
    task = await scene.claim(first)
    await scene.ledger.publish(task.uid, 1, made())
    assert len(await scene.look()) == 1, "the replica has not answered yet"
    scene.replicas.tickets[first].set_result(None)
    await asyncio.sleep(0)
    assert len(await scene.look()) == 2
    assert scene.replicas.lost == []


async def test_a_nudge_makes_the_dispatcher_look(make_scene: MakeScene) -> None:
    scene = await make_scene(1)
    duty = asyncio.create_task(scene.dispatcher.run())
    await scene.submit("a")
    scene.dispatcher.nudge()
    await scene.until(lambda: len(scene.replicas.tickets) == 1)
    duty.cancel()
    await asyncio.gather(duty, return_exceptions=True)


async def test_runs_of_an_earlier_coordinator_take_room(make_scene: MakeScene) -> None:
    scene = await make_scene(2)
    await scene.submit("o")
    assert await scene.ledger.claim("demo", "replica-of-before") is not None
    await scene.submit("a", "b")
    assert len(await scene.look()) == 1


async def test_tasks_beyond_their_owners_limit_make_no_tickets_until_one_of_its_ends(
    database: Database,
) -> None:
    async with scene(database, window=3, shares={"": Share(max_running=1)}) as limited:
        await limited.submit("a", "b", "c")
        (ticket,) = await limited.look()
        task = await limited.claim(ticket)
        assert len(await limited.look()) == 1
        await limited.ledger.publish(task.uid, 1, made())
        assert len(await limited.look()) == 2


async def test_a_lost_replica_gives_up_the_task_it_ran(make_scene: MakeScene) -> None:
    scene = await make_scene(1)
    await scene.submit("a")
    (ticket,) = await scene.look()
    task = await scene.claim(ticket)
    scene.replicas.tickets[ticket].set_exception(ReplicaLost())
    await scene.until(lambda: scene.replicas.lost == [task])


async def test_an_error_that_proves_nothing_leaves_the_task_to_its_lease(make_scene: MakeScene) -> None:
    scene = await make_scene(1)
    await scene.submit("a", "b")
    (ticket,) = await scene.look()
    task = await scene.claim(ticket)
    scene.replicas.tickets[ticket].set_exception(ConnectionError("no answer"))
    await asyncio.sleep(0)
    await scene.look()
    assert scene.replicas.lost == []
    assert (await scene.store.get(EVERYONE, task.id)).status is Status.RUNNING


async def test_a_run_whose_ticket_ended_in_an_error_takes_room_until_it_ends(make_scene: MakeScene) -> None:
    scene = await make_scene(1)
    await scene.submit("a", "b")
    (first,) = await scene.look()
    task = await scene.claim(first)
    scene.replicas.tickets[first].set_exception(RuntimeError("nobody knows what became of it"))
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})  # the one that follows the ticket
    assert len(await scene.look()) == 1
    await scene.ledger.publish(task.uid, 1, made())
    assert len(await scene.look()) == 2


async def test_a_claim_with_a_ticket_of_an_earlier_coordinator_takes_room(
    make_scene: MakeScene,
) -> None:
    scene = await make_scene(1)
    await scene.look()
    await scene.submit("a", "b")
    task = await scene.claim("a ticket of before")
    assert await scene.look() == []
    await scene.ledger.publish(task.uid, 1, made())
    assert len(await scene.look()) == 1
