"""The scheduler that shares the tests out among processes (``--numprocesses`` of pytest-xdist)."""

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SHARED_CLUSTER = "the shared cluster"
OWN_CLUSTERS = "clusters of their own"

ON_CLUSTERS = {
    "contract/test_engine_contract.py": SHARED_CLUSTER,
    "contract/test_rank_group.py": SHARED_CLUSTER,
    "service/test_drill.py": OWN_CLUSTERS,
    "service/test_restart.py": OWN_CLUSTERS,
}
"""The cluster that a file's tests use; the others in ``service`` use the shared one."""

FOLDERS = ("models", "training", "bench", "http", "contract", "unit")
"""Folders in the order of their begin: the slowest first, after the tests on clusters, which mostly wait."""


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A scheduler by scope: a process gets a whole file, or all files on the shared cluster, in order."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """Return the name of the group of tests that one process runs together with this one."""
    path = PurePosixPath(nodeid.partition("::")[0])
    default = SHARED_CLUSTER if path.parent.name == "service" else str(path)
    return ON_CLUSTERS.get(f"{path.parent.name}/{path.name}", default)


def order(items: list[pytest.Item]) -> None:
    """Sort the tests as they are to be shared out."""
    for item in items:
        if item.get_closest_marker("cluster") and scope(item.nodeid) != SHARED_CLUSTER:
            raise pytest.UsageError(f"{item.nodeid} uses the shared cluster; say so in tests/scheduler.py.")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    place = scope(item.nodeid)
    if place in (SHARED_CLUSTER, OWN_CLUSTERS):
        return -2 if place == SHARED_CLUSTER else -1
    folder = item.path.parent.name
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
