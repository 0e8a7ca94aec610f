"""One real Ray cluster for all service tests; each test file deploys its own application on it."""

from collections.abc import Iterator

import pytest

from testbed.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
