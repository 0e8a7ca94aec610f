"""The report line: what replicas tell the coordinator beside Ray Serve, and what they do without it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
from ray.serve.exceptions import RayServeException

from models.phase import Phase
from serve_app.coordinator.report_server import ReportServer
from serve_app.errors import StoreUnavailable
from serve_app.replica.coordinator_link import CoordinatorLink
from serve_app.replica.report_client import NoLine, ReportClient, Unanswered
from serve_app.tasks.command import Command
from serve_app.tasks.replica import Health, Replica
from serve_app.tasks.report_line import Address, Told
from serve_app.tasks.run_report import RunReport

DEADLINE_S = 10
REPLICA = Replica("r", "demo", "cuda", 8, 0.0, Health.POISONED, "A rank is lost.")
REPORT = RunReport(3, 0.5, Phase.DENOISING, ("A note.",), "a cat, at length", REPLICA)


@dataclass
class Coordinator:
    """What a report server answers for: it notes what it is told, and gives set answers."""

    answers: dict[str, int] = field(default_factory=dict)
    told: list[Told | Replica] = field(default_factory=list)
    holds: asyncio.Event | None = None
    server: ReportServer = field(init=False)

    async def start(self) -> None:
        self.server = ReportServer(self._report, self._saw)
        await self.server.start("127.0.0.1")

    async def find(self) -> Address | None:
        return self.server.address

    async def _report(self, uid: str, attempt: int, report: RunReport) -> int:
        self.told.append(Told(uid, attempt, report))
        if uid == "held" and self.holds is not None:
            await self.holds.wait()
        if uid == "away":
            raise StoreUnavailable("The database does not answer; try again later.")
        return self.answers.get(uid, Command.GO_ON)

    async def _saw(self, replica: Replica) -> None:
        self.told.append(replica)


@pytest_asyncio.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    begun = Coordinator()
    await begun.start()
    yield begun
    begun.server.close()


@pytest_asyncio.fixture
async def line(coordinator: Coordinator) -> AsyncIterator[ReportClient]:
    client = ReportClient(coordinator.find)
    yield client
    client.close()


async def test_reports_and_heartbeats_arrive_whole_and_commands_come_back(
    coordinator: Coordinator, line: ReportClient
) -> None:
    coordinator.answers = {"u": Command.GO_ON | Command.FINISH | Command.SHOW, "left": Command.LEAVE}
    assert await line.tell(Told("u", 2, REPORT)) == Command.GO_ON | Command.FINISH | Command.SHOW
    assert await line.tell(REPLICA) == Command.GO_ON
    assert await line.tell(Told("left", 1, RunReport(0, 0.0, Phase.PREPARING))) == Command.LEAVE
    assert coordinator.told == [
        Told("u", 2, REPORT),
        REPLICA,
        Told("left", 1, RunReport(0, 0.0, Phase.PREPARING)),
    ]


async def test_who_does_not_know_the_token_is_hung_up_on(coordinator: Coordinator) -> None:
    address = await coordinator.find()
    assert address is not None

    async def stranger() -> Address:
        return replace(address, token="0" * len(address.token))

    with pytest.raises(NoLine):
        await ReportClient(stranger).tell(REPLICA)
    assert coordinator.told == []


async def test_what_the_coordinator_cannot_take_is_unanswered_and_the_line_goes_on(
    coordinator: Coordinator, line: ReportClient
) -> None:
    with pytest.raises(Unanswered):
        await line.tell(Told("away", 1, REPORT))
    assert await line.tell(Told("u", 1, REPORT)) == Command.GO_ON


async def test_a_coordinator_that_is_replaced_hangs_up_and_the_next_one_is_found(
    coordinator: Coordinator, line: ReportClient
) -> None:
    await line.tell(REPLICA)
    coordinator.server.close()
    with pytest.raises(NoLine):
        await line.tell(REPLICA)
    await coordinator.start()
    again = ReportClient(coordinator.find)
    assert await again.tell(REPLICA) == Command.GO_ON
    again.close()


async def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next_ones(
    coordinator: Coordinator, line: ReportClient
) -> None:
    coordinator.answers, coordinator.holds = {"held": Command.LEAVE}, asyncio.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(line.tell(Told("held", 1, REPORT)), 0.05)
    coordinator.holds.set()
    assert await line.tell(Told("u", 1, REPORT)) == Command.GO_ON


class Handle:
    """A deployment handle to a coordinator that has no report line."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, method: str) -> "Handle":
        return _Method(self, method)


class _Method(Handle):
    def __init__(self, handle: Handle, method: str) -> None:
        self._handle, self._method = handle, method

    async def remote(self, *told: Any) -> int:
        if self._method == "report_line":
            raise RayServeException("it has no such method")
        self._handle.told.append((self._method, *told))
        return int(Command.GO_ON | Command.SHOW)


async def test_without_a_line_replicas_speak_through_serve_and_a_report_is_a_heartbeat_too() -> None:
    handle: Any = Handle()
    link = CoordinatorLink(handle, lambda: REPLICA, patience_s=DEADLINE_S, give_up_s=1)
    await link.stay_known()
    plain = replace(REPORT, replica=None)
    assert await link.report("u", 1, plain) == Command.GO_ON | Command.SHOW
    await link.stay_known()
    assert handle.told == [("saw", REPLICA), ("report", "u", 1, REPORT)]
