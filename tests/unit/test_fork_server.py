"""The fork server of the testbed gives Ray's workers what a Python of their own would."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from testbed.fork_server import server_name
from testbed.launched import END_S, ROOT, STARTUP
from testbed.service import wait_for

WORKER = """
import os, sys, ray
leads = os.getpgrp() == os.getpid()
print(os.getppid(), leads, sys.argv[1], os.environ["NAME"], ray.ObjectRef.from_random().hex())
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Starts a worker as a raylet does, in whose place is this process, or what it is ``under``; returns what
    the worker says.
    """
    script = tmp_path / "workers/default_worker.py"
    script.parent.mkdir()
    script.write_text(WORKER)
    path = os.pathsep.join([str(ROOT), str(STARTUP)])
    environment = {**os.environ, "PYTHONPATH": path, "WAN_TESTBED_FORKS": ""}
    with ExitStack() as ending:

        def start(name: str, *under: str, **variables: str) -> list[str]:
            process = ending.enter_context(
                subprocess.Popen(
                    [*under, sys.executable, str(script), name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**environment, "NAME": name, **variables},
                    text=True,
                )
            )
            ending.callback(process.kill)
            assert process.stdout is not None
            return process.stdout.readline().split()

        yield start


def test_the_first_worker_forks_all_with_their_own_arguments_environment_output_and_ids(
    started: Callable[..., list[str]],
) -> None:
    server, *first, id = started("first")
    assert first == ["True", "first", "first"]
    parent, *second, other_id = started("second")
    assert second == ["True", "second", "second"]
    assert server == parent != str(os.getpid())
    assert id != other_id
    parent, _, *third, _ = started("third", RAY_NODE_TYPE_NAME="another")
    assert parent == str(os.getpid()) and third == ["third", "third"]


def test_the_server_of_another_raylet_is_a_fork_of_the_first_and_ends_with_its_own(
    started: Callable[..., list[str]],
) -> None:
    first, *_ = started("first")
    raylet = ["sh", "-c", 'RAY_RAYLET_PID=$$ "$0" "$@"; read line']
    parent, *second, _ = started("second", *raylet, WAN_TESTBED_FORKS_OF=str(os.getpid()))
    assert second == ["True", "second", "second"]
    server = psutil.Process(int(parent))
    assert server.ppid() == int(first)
    (another,) = (child for child in psutil.Process().children() if server.name() == server_name(child.pid))
    assert another.name() == "sh"
    another.kill()
    wait_for(lambda: not server.is_running(), END_S, lambda: "the server outlives its raylet")
