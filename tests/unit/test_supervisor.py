"""The supervisor of a service: every way of stopping it ends all that it has started."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from testbed.service import wait_for

ROOT = Path(__file__).parents[2]
SERVICE = """
import os, select, signal, subprocess, sys
from pathlib import Path
from serve_app.launch.hold import held
from serve_app.launch.supervisor import supervise

def serve():
    heard, tell = os.pipe()
    signal.signal(signal.SIGTERM, lambda number, frame: os.write(tell, b"."))
    with held(Path(sys.argv[1]), lambda process: f"Another service{process} runs here."):
        # As Ray's processes are: of another group, so that nothing reaches it.
        left = subprocess.Popen(["sleep", "600"], process_group=0)
        print(left.pid, flush=True)
        os.read(heard, 1)
    more, _, _ = select.select([heard], [], [], 0)
    print("stopped again" if more else "stopped", flush=True)
    return 0

for number in (signal.SIGINT, signal.SIGHUP):  # which the tests' own parent may have had ignored
    signal.signal(number, signal.SIG_DFL)
sys.exit(supervise(serve))
"""


class Supervised:
    """A service of two processes below its supervisor: one that stops when told so, one that never does."""

    def __init__(self, lock: Path) -> None:
        self.supervisor = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(lock)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.supervisor.stdout is not None
        self.left = psutil.Process(int(self.supervisor.stdout.readline()))
        launcher = self.left.parent()
        assert launcher is not None
        self.launcher = launcher

    def ended(self) -> tuple[int, str]:
        """Return the exit status and what was printed since the start."""
        output = "".join(self.supervisor.communicate(timeout=30))
        return self.supervisor.returncode, output

    @property
    def lives(self) -> bool:
        """Whether anything of it runs."""
        return any(runs(process) for process in (self.launcher, self.left))


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    service = Supervised(tmp_path / "lock")
    yield service
    service.supervisor.kill()
    for process in (service.launcher, service.left):
        if runs(process):
            process.kill()
    service.supervisor.communicate()


def runs(process: psutil.Process) -> bool:
    """Return whether the process has not ended, whoever is to hear of its end."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_group_reaches_the_launcher_alone_and_everything_ends(
    supervised: Supervised, number: signal.Signals
) -> None:
    os.killpg(supervised.supervisor.pid, number)
    assert supervised.ended() == (0, "stopped\n")
    assert not supervised.lives


def test_what_a_killed_launcher_leaves_behind_is_ended_with_a_sentence(supervised: Supervised) -> None:
    supervised.launcher.kill()
    assert supervised.ended() == (1, "The service was ended by SIGKILL.\n")
    assert not supervised.lives


def test_a_launcher_whose_supervisor_is_killed_stops_and_ends_what_is_left(supervised: Supervised) -> None:
    supervised.supervisor.kill()
    assert supervised.ended() == (-signal.SIGKILL, "stopped\n")
    wait_for(lambda: not supervised.lives, 10, lambda: "something lives")


@pytest.mark.slow
def test_a_start_ends_what_is_left_of_a_service_that_was_killed_and_only_that(
    supervised: Supervised, tmp_path: Path
) -> None:
    other = Supervised(tmp_path / "other lock")
    try:
        for process in (supervised.supervisor, supervised.launcher):
            process.kill()
        wait_for(lambda: not runs(supervised.launcher), 10, lambda: "it lives")
        assert runs(supervised.left)

        again = Supervised(tmp_path / "lock")
        assert not runs(supervised.left)
        os.kill(again.supervisor.pid, signal.SIGTERM)
        status, output = again.ended()
        assert status == 0
        assert f"are ended: {supervised.left.pid} (sleep)" in output
    finally:
        assert other.lives
        other.supervisor.terminate()
        assert other.ended()[0] == 0


def test_a_start_beside_a_service_that_runs_is_refused_by_the_number_of_its_process(
    supervised: Supervised, tmp_path: Path
) -> None:
    refused = subprocess.run(
        [sys.executable, "-c", SERVICE, str(tmp_path / "lock")], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert f"Another service, process {supervised.launcher.pid}, runs here." in refused.stderr
    assert supervised.lives
