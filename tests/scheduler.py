"""The scheduler that shares the tests out among processes (``--numprocesses`` of pytest-xdist)."""

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

FIRST = "the first process with clusters"
SECOND = "the second process with clusters"

ON_CLUSTERS = {
    "contract/test_engine_contract.py": FIRST,
    "contract/test_rank_group.py": FIRST,
    "service/test_drill.py": SECOND,
    "service/test_nodes.py": SECOND,
    "service/test_restart.py": SECOND,
    "service/test_scaling.py": SECOND,
}
"""Where the tests of a file run that use clusters; all others in ``service`` run in the first process.

Both take about as long. The second begins with those that launch clusters of their own.
"""

FOLDERS = ("models", "training", "bench", "deploy", "http", "contract", "unit")
"""Folders in the order of their begin: the slowest first, after the tests on clusters, which mostly wait."""


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A scheduler by scope: a process gets a whole file, or all files that share a cluster, in order."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """Return the name of the group of tests that one process runs together with this one."""
    path = PurePosixPath(nodeid.partition("::")[0])
    default = FIRST if path.parent.name == "service" else str(path)
    return ON_CLUSTERS.get(f"{path.parent.name}/{path.name}", default)


def order(items: list[pytest.Item]) -> None:
    """Sort the tests as they are to be shared out."""
    for item in items:
        if item.get_closest_marker("cluster") and scope(item.nodeid) not in (FIRST, SECOND):
            raise pytest.UsageError(f"{item.nodeid} uses a cluster; say so in tests/scheduler.py.")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    place = scope(item.nodeid)
    if place in (FIRST, SECOND):
        return -2 if place == FIRST else -1
    folder = item.nodeid.split("/")[1]
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
