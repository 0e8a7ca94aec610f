"""The scheduler that shares the tests out among processes (``--numprocesses`` of pytest-xdist)."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

FIRST = "the first process with clusters"
SECOND = "the second process with clusters"
RANKS = "the process with groups of ranks"

ON_CLUSTERS = {
    "contract/test_engine_contract.py": FIRST,
    "contract/test_rank_group.py": FIRST,
    "service/test_drill.py": SECOND,
    "service/test_many_nodes.py": SECOND,
    "service/test_nodes.py": SECOND,
    "service/test_restart.py": SECOND,
    "service/test_scaling.py": SECOND,
}
"""Where the tests of a file run that use clusters; all others in ``service`` run in the first process.

Both take about as long. The second begins with those that launch clusters of their own.
"""

OF_RANKS = {
    "bench/test_communication.py",
    "models/test_compiled.py",
    "models/test_lora.py",
    "models/test_parallel.py",
    "models/test_step_cache.py",
}
"""The files whose ranks are forks of one server, which imports the models once, and for most of them what
``test_parallel.py`` imports: that comes first.
"""

GROUPS = (FIRST, SECOND, RANKS)
"""The groups of files in the order of their begin, before all others."""

FOLDERS = ("models", "training", "bench", "deploy", "web", "http", "contract", "unit")
"""Folders in the order of their begin: the slowest files first, so that all processes end together."""


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A scheduler by scope: a process gets a whole file, or all files that share a cluster, in order."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    @property
    def nodes(self) -> list[Any]:
        """The processes by their numbers: the first ones, which take the clusters, have no low priority."""
        return sorted(self.assigned_work, key=lambda node: int(node.gateway.id.removeprefix("gw")))

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """Return the name of the group of tests that one process runs together with this one."""
    path = PurePosixPath(nodeid.partition("::")[0])
    name = f"{path.parent.name}/{path.name}"
    if name in OF_RANKS:
        return RANKS
    return ON_CLUSTERS.get(name, FIRST if path.parent.name == "service" else str(path))


def order(items: list[pytest.Item]) -> None:
    """Sort the tests as they are to be shared out."""
    for item in items:
        if item.get_closest_marker("cluster") and scope(item.nodeid) not in (FIRST, SECOND):
            raise pytest.UsageError(f"{item.nodeid} uses a cluster; say so in tests/scheduler.py.")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    place = scope(item.nodeid)
    folder = item.nodeid.split("/")[1]
    if place in GROUPS:
        turn = GROUPS.index(place) - len(GROUPS)
    else:
        turn = FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
    return turn, item.path.name != "test_parallel.py"
