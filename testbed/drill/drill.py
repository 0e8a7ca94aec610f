"""A drill: tasks come in, faults strike, and at the end every promise is checked."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any, Protocol

from testbed.cluster import free_port, paced
from testbed.drill.checker import Checker, Verdict
from testbed.drill.client import OF_ALL, OF_ONE, Client, Submits, Work
from testbed.drill.faults import Faults
from testbed.drill.receiver import SECRET, Receiver
from testbed.launched import Launched

_WAITING = 16
"""The number of tasks that are open at a time, so that every fault strikes running tasks."""
_LOOK_EVERY_S = 1.0
_TOLD_EVERY = 25
_RULES = {"lease_s": 3.0, "heartbeat_s": 0.5, "max_attempts": 10}
_WORK = Work((2, 8), uploads=True)
SETTINGS: Mapping[str, Any] = {
    "limits": {"max_queued": 100_000},
    "webhooks": {"secrets": [SECRET], "networks": ["127.0.0.0/8"]},
    "uploads": {"networks": ["127.0.0.0/8"]},
}
"""What every drilled service needs."""


@dataclass(frozen=True)
class DrillPlan:
    """A drill's plan: how many tasks, how many faults and how fast."""

    tasks: int
    kills: int
    seed: int = 1
    pause_s: tuple[float, float] = (0.5, 2.5)
    """The least and the most seconds between two faults."""
    submit_every_s: float | None = None
    """Seconds between two submits, however many tasks are open; None: when one of 16 has ended."""
    keeps_busy: bool = False
    """Whether tasks come in until the last fault, more than ``tasks`` of them if need be; otherwise these are
    spread over the faults, and a fault that takes minutes may strike a service that has become idle.
    """
    deadline_s: float = 180.0
    """The seconds that tasks may stay open after the last fault."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a drill: the verdict, and how often each kind of fault struck."""

    verdict: Verdict
    kills: dict[str, int]

    @property
    def is_clean(self) -> bool:
        """True if every promise was kept."""
        return self.verdict.is_clean

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {**self.verdict.as_json(), "kills": sum(self.kills.values()), "kills_by_kind": self.kills}


def drill(plan: DrillPlan, folder: Path) -> Outcome:
    """Start a service in ``folder``, drill it and stop it."""
    model = paced(0.05, replicas=3, cpus_per_replica=0.1)
    launched = Launched(
        folder,
        free_port(),
        models=[model],
        tasks=_RULES,
        ingress_replicas=2,
        **SETTINGS,
    )
    with launched:
        launched.start()
        faults = Faults(launched, Random(plan.seed))
        drilling = Drill(plan, lambda: launched.service.url, faults, _WORK)
        verdict = asyncio.run(drilling.run())
        return Outcome(verdict, faults.struck)


class Strikes(Protocol):
    """What strikes the service, one after the other."""

    def strike(self) -> bool:
        """Strike once, and block until that is done; return whether there was anything to strike."""


class Drill:
    """Load on a service while it is struck, and the verdict on its answers.

    ``url``: returns where the service is reached now.
    """

    def __init__(self, plan: DrillPlan, url: Callable[[], str], faults: Strikes, work: Work) -> None:
        self._plan = plan
        self._faults = faults
        self._random = Random(plan.seed + 1)
        self._checker = Checker(frozenset({OF_ONE, OF_ALL}))
        self._url = url
        self._work = work
        self.submits = Submits()
        self.ended_at: list[float] = []
        """When the end of each task was seen, by ``time.monotonic``."""
        self._models = cycle(work.models)
        self._striking = True
        self._struck = 0
        self._followed = 0
        self._slots = asyncio.Semaphore(_WAITING)
        self._followers: set[asyncio.Task[None]] = set()

    async def run(self) -> Verdict:
        """Run the whole plan; return the verdict."""
        receiver = Receiver(self._checker)
        at = await receiver.start()
        self._client = Client(self._url, self._checker, self._random, at, self._work, self.submits)
        following = asyncio.create_task(self._client.follow_all())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._strike())
                async with asyncio.TaskGroup() as load:
                    for number in count():
                        if number >= self._plan.tasks and not (self._plan.keeps_busy and self._striking):
                            break
                        await self._until_next(number)
                        load.create_task(self._follow(f"drill-{self._plan.seed}-{number}"))
            await self._check_all()
            await self._until_all_is_told()
            return self._checker.verdict()
        finally:
            following.cancel()
            await self._client.close()
            receiver.close()

    async def _strike(self) -> None:
        """Strike all faults one after the other, spread over the tasks: some tasks end between any two
        faults.
        """
        while self._struck < self._plan.kills:
            if self._followed < self._due(self._struck) - _WAITING:
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            self._struck += await asyncio.to_thread(self._faults.strike)
            if self._struck % _TOLD_EVERY == 0:
                plan = self._plan
                told = f"{self._struck} of {plan.kills} faults, {self._followed} of {plan.tasks} tasks"
                print(told, file=sys.stderr, flush=True)
            await asyncio.sleep(self._random.uniform(*self._plan.pause_s))
        self._striking = False

    def _due(self, faults: int) -> float:
        """Return the number of tasks that are due after so many faults."""
        return self._plan.tasks * faults / self._plan.kills

    async def _until_next(self, number: int) -> None:
        """Wait until the next task is to be submitted; they are spread over the faults, or keep coming."""
        if self._plan.submit_every_s is None:
            await self._slots.acquire()
        else:
            await asyncio.sleep(self._plan.submit_every_s)
        while self._striking and not self._plan.keeps_busy and number - _WAITING > self._due(self._struck):
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _follow(self, task_id: str) -> None:
        """Follow one task from its submit to its end."""
        try:
            await self._client.submit(task_id, next(self._models))
            if self._random.random() < 0.05:
                await self._client.cancel(task_id)
            self._followers.add(asyncio.create_task(self._client.follow(task_id)))
            loop = asyncio.get_running_loop()
            ends_at: float | None = None
            while task_id in self._checker.open and task_id not in self._checker.lost:
                await self._client.look(task_id)
                if not self._striking:
                    ends_at = ends_at or loop.time() + self._plan.deadline_s
                    if loop.time() > ends_at:
                        return
                await asyncio.sleep(_LOOK_EVERY_S)
            self.ended_at.append(time.monotonic())
            if task_id in self._checker.succeeded:
                await self._client.fetch(task_id)
        finally:
            self._followed += 1
            self._slots.release()

    async def _until_all_is_told(self) -> None:
        """Wait until the webhooks, the events and the uploads of all ends have come, or their time is up."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._plan.deadline_s
        checker = self._checker
        while (checker.untold or checker.unseen or checker.unsent) and loop.time() < ends_at:
            await asyncio.sleep(_LOOK_EVERY_S)
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    async def _check_all(self) -> None:
        """Ask for every task once more after the last fault: its status, its result, the list."""
        for task_id in list(self._checker.records):
            await self._client.look(task_id)
        for task_id in self._checker.succeeded:
            while not await self._client.fetch(task_id):
                await asyncio.sleep(_LOOK_EVERY_S)
        self._checker.listed(await self._client.list())
