"""One real Ray cluster for all tests that need one; each test file deploys its own application on it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testbed.cluster import Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the cluster and run them last: it takes processor time while it is up."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Cluster]":
    from testbed.cluster import Cluster  # sets Ray's environment, which other tests need not have

    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
