"""The drill of upgrades: services take each other's place under load, and every promise is checked."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from testbed.cluster import paced
from testbed.drill.attempts import attempts_lost
from testbed.drill.client import Work
from testbed.drill.drill import SETTINGS, Drill, DrillPlan, Outcome
from testbed.drill.rolls import Rolls
from testbed.postgres_server import PostgresServer, programs

_MAX_ATTEMPTS = 10
_STEPS = (40, 200)
_RULES = {"lease_s": 10.0, "heartbeat_s": 1.0, "max_attempts": _MAX_ATTEMPTS, "drain_s": 4.0}
"""A run takes from four seconds to twenty, and may go on for four: some end, the others are handed back.

Two leases are longer than a killed coordinator takes to come back, on a machine busy with two services.
"""


@dataclass(frozen=True)
class UpgradeOutcome(Outcome):
    """The outcome of a drill of upgrades."""

    rolls: int
    """How often a service took another's place."""
    runs_killed: int
    """Runs that were under way in services that were killed whole, each of which may use up an attempt."""
    attempts_lost: int
    """Attempts that were used up beside those, and the last one of each task; none should be."""

    @property
    def is_clean(self) -> bool:
        """True if every promise was kept."""
        return super().is_clean and not self.attempts_lost

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        own = {"rolls": self.rolls, "runs killed": self.runs_killed, "attempts lost": self.attempts_lost}
        return {**super().as_json(), **own}


def drill_upgrades(plan: DrillPlan, folder: Path) -> UpgradeOutcome:
    """Start a service in ``folder`` and roll it ``plan.kills`` times, in each of the ways in turn."""
    found = programs()
    assert found is not None, "PostgreSQL's server programs are not installed"
    with PostgresServer(found) as server:
        models = [paced(0.1, replicas=2, cpus_per_replica=0.1)]
        args = {**SETTINGS, "models": models, "tasks": _RULES, "ingress_replicas": 1}
        url = server.new_database()
        with Rolls(folder, url, Random(plan.seed), args) as rolls:
            drilling = Drill(plan, lambda: rolls.current.service.url, rolls, Work(_STEPS, uploads=True))
            verdict = asyncio.run(drilling.run())
            lost = asyncio.run(attempts_lost(url, _MAX_ATTEMPTS, rolls.killed_runs))
        return UpgradeOutcome(verdict, rolls.struck, rolls.rolls, rolls.killed_runs.total(), lost)
