"""Upgrades as faults: a service takes another's place, or gives it back, while parts of both are killed."""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, select

from serve_app.store.database import Database
from serve_app.store.tables import SERVICES, TASKS
from testbed.cluster import free_port
from testbed.drill.faults import KINDS, Faults
from testbed.launched import Launched
from testbed.service import wait_for

COSTLESS = frozenset({"coordinator killed", "ingress replica killed", "Serve controller killed"})
"""Faults that use up no attempt of any task, so that one that is used up is the upgrade's."""
LEAD_S = 120
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
        """Roll forward, to a newer service, or, every other time, forward and back again."""
        newer = self._started()
        self._kill(newer)
        goes_back = sum(self.struck.get(name, 0) for name in ("forward", "back")) % 2 == 1
        older, self.current = self.current, newer
        self._kill(older)
        if goes_back:
            time.sleep(STAY_S)
            self.current, older = older, newer
        assert older.terminate() == 0
        self._note("back" if goes_back else "forward")
        print(f"rolls and kills: {self.struck}", file=sys.stderr, flush=True)
        return True

    async def attempts_lost(self, max_attempts: int) -> int:
        """Return how many attempts all tasks together have used up beside the last one of each."""
        database = Database(self._database_url)
        async with database.read() as connection:
            left = (await connection.execute(select(TASKS.c.attempts_left))).scalars().all()
        await database.close()
        return sum(max(0, max_attempts - 1 - each) for each in left)

    def _started(self) -> Launched:
        """Start another service, which then leads; one that Ray does not bring up in time is tried again."""
        for _ in range(_TRIES - 1):
            with suppress(AssertionError):
                return self._start()
        return self._start()

    def _start(self) -> Launched:
        before = asyncio.run(self._newest()) if self._services else 0
        folder = self._folder / f"service{len(self._services)}"
        folder.mkdir()
        service = Launched(folder, free_port(), **self._args)
        self._services.append(service)
        try:
            service.start()
            wait_for(lambda: self._leads(before), LEAD_S, lambda: f"it does not lead:\n{service.output}")
        except AssertionError as error:
            service.__exit__(None, error, None)
            raise
        return service

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
