"""The fork server of the testbed gives Ray's workers what a Python of their own would."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.launched import ROOT, STARTUP

WORKER = """
import os, sys, ray
leads = os.getpgrp() == os.getpid()
print(os.getppid(), leads, sys.argv[1], os.environ["NAME"], ray.ObjectRef.from_random().hex())
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Starts a worker as a raylet does, in whose place is this process, and returns what it says."""
    script = tmp_path / "workers/default_worker.py"
    script.parent.mkdir()
    script.write_text(WORKER)
    path = os.pathsep.join([str(ROOT), str(STARTUP)])
    environment = {**os.environ, "PYTHONPATH": path, "WAN_TESTBED_FORKS": ""}
    with ExitStack() as ending:

        def start(name: str, **variables: str) -> list[str]:
            process = ending.enter_context(
                subprocess.Popen(
                    [sys.executable, str(script), name],
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
