"""Upgrades as faults: a service takes another's place, or gives it back, while parts of both, or all of one,
are killed.
"""

import asyncio
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, select

from serve_app.store.database import Database
from serve_app.store.tables import SERVICES
from testbed.cluster import free_port
from testbed.drill.attempts import runs_of
from testbed.drill.faults import KINDS, Faults
from testbed.launched import Launched
from testbed.service import wait_for

COSTLESS = frozenset({"coordinator killed", "ingress replica killed", "Serve controller killed"})
"""Faults that use up no attempt of any task, so that one that is used up is the upgrade's."""
LEAD_S = 120
FORWARD, BACK = "forward", "back"
LEADER_KILLED, DRAINING_KILLED = "leading service killed", "draining service killed"
WAYS = (FORWARD, LEADER_KILLED, BACK, DRAINING_KILLED)
"""Ways of a roll: the older service is stopped once the newer leads, or the newer one after some seconds; or
all of one is killed, the one that leads or the one that drains, and started again.
"""
_TRIES = 3
STAY_S = 3.0
"""Seconds for which a newer service leads before it goes away again: its runs are then under way."""


class Rolls:
    """The services on one database and one data folder; ``current`` is the one that clients are to use."""

    def __init__(self, folder: Path, database_url: str, random: Random, args: dict[str, Any]) -> None:
        """``args``: those of every service."""
        self._folder = folder
        self._database_url = database_url
        self._random = random
        self._args = {"data_dir": str(folder / "data"), "database_url": database_url, **args}
        self._services: list[Launched] = []
        self._generations: dict[Launched, int] = {}
        self.killed_runs: Counter[str] = Counter()
        """By uid of the task, its runs that were under way in a service that was killed whole."""
        self.struck: dict[str, int] = {}
        self.current = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self._services:
            service.__exit__(kind, error, trace)

    def strike(self) -> bool:
        """Roll to a newer service, in each of the ways in turn."""
        newer = self._started()
        self._kill(newer)
        way = WAYS[self.rolls % len(WAYS)]
        older, self.current = self.current, newer
        if way == DRAINING_KILLED:
            self._kill_whole(older)
        else:
            self._kill(older)
        if way in (BACK, LEADER_KILLED):
            time.sleep(STAY_S)
        if way == LEADER_KILLED:
            self._kill_whole(newer)
        if way in (BACK, DRAINING_KILLED):  # one that is started again is the newer one
            self.current, older = older, newer
        assert older.terminate() == 0
        self._note(way)
        print(f"rolls and kills: {self.struck}", file=sys.stderr, flush=True)
        return True

    @property
    def rolls(self) -> int:
        """How often a service took another's place."""
        return sum(self.struck.get(way, 0) for way in WAYS)

    def _kill_whole(self, service: Launched) -> None:
        """Kill every process of a service (SIGKILL), and start it again, which then leads."""
        generation = self._generations[service]
        runs = set(asyncio.run(runs_of(self._database_url, generation)))
        service.kill()
        runs.update(asyncio.run(runs_of(self._database_url, generation)))
        self.killed_runs.update(runs)
        for _ in range(_TRIES - 1):
            with suppress(AssertionError):
                return self._lead(service)
            service.__exit__(None, None, None)
        self._lead(service)

    def _started(self) -> Launched:
        """Start another service, which then leads; one that Ray does not bring up in time is tried again."""
        for _ in range(_TRIES - 1):
            with suppress(AssertionError):
                return self._start()
        return self._start()

    def _start(self) -> Launched:
        folder = self._folder / f"service{len(self._services)}"
        folder.mkdir()
        service = Launched(folder, free_port(), **self._args)
        self._services.append(service)
        try:
            self._lead(service)
        except AssertionError as error:
            service.__exit__(None, error, None)
            raise
        return service

    def _lead(self, service: Launched) -> None:
        """Start a service and wait until it leads."""
        before = asyncio.run(self._newest()) if self._generations else 0
        service.start()
        wait_for(lambda: self._leads(before), LEAD_S, lambda: f"it does not lead:\n{service.output}")
        self._generations[service] = asyncio.run(self._newest())

    def _kill(self, service: Launched) -> None:
        faults = Faults(service, self._random, frozenset(kind.name for kind in KINDS) - COSTLESS)
        if faults.strike():
            for name in faults.struck:
                self._note(name)

    def _note(self, name: str) -> None:
        self.struck[name] = self.struck.get(name, 0) + 1

    def _leads(self, before: int) -> bool:
        return asyncio.run(self._newest(leads=True)) > before

    async def _newest(self, *, leads: bool = False) -> int:
        """Return the highest generation of all services, or that of the one that leads."""
        database = Database(self._database_url)
        query = select(func.max(SERVICES.c.generation))
        async with database.read() as connection:
            newest = await connection.scalar(query.where(SERVICES.c.leads) if leads else query)
        await database.close()
        return newest or 0
