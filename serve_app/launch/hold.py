"""The hold of a service on its data: one at a time, and what an earlier one left behind is ended first."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psutil

from serve_app.launch.launch_config import LaunchError
from serve_app.launch.launch_record import LaunchRecord
from serve_app.launch.session import end_session

_ORPHAN_S = 30.0
"""Time for a launcher that is to stop at once to hand back what runs and end Ray."""
_PAUSE_S = 0.1


@contextmanager
def held(file: Path, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold a lock on ``file``, which ends with this process, whatever ends that, and has its record.

    Ends first what runs of an earlier service whose launcher was killed. Raises ``LaunchError`` where another
    service holds it, with the sentence that ``refusal`` makes of who that is.
    """
    with open(file, "a+") as lock:
        if not _locked(lock) and not _outlasted(lock):
            earlier = _recorded(lock)
            process = f", process {earlier.launcher.pid}," if earlier else ""
            raise LaunchError(refusal(process))
        _end_left_behind(lock)
        lock.truncate(0)
        if own := LaunchRecord.of_this_process():
            lock.write(own.model_dump_json())
            lock.flush()
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _recorded(lock: TextIO) -> LaunchRecord | None:
    lock.seek(0)
    return LaunchRecord.parse(lock.read())


def _outlasted(lock: TextIO) -> bool:
    """Have a launcher stop at once whose supervisor was killed; return whether it has given up its lock."""
    record = _recorded(lock)
    if record is None or not record.is_orphan:
        return False
    pid = record.launcher.pid
    _tell(f"Process {pid} of an earlier service, whose launcher was killed, is made to stop.")
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    ends_at = time.monotonic() + _ORPHAN_S
    while not _locked(lock):
        if time.monotonic() >= ends_at:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            ends_at = float("inf")  # the lock ends with the process
        time.sleep(_PAUSE_S)
    return True


def _end_left_behind(lock: TextIO) -> None:
    record = _recorded(lock)
    left = record.left_behind() if record else []
    if record and left:
        _tell(f"{len(left)} processes of an earlier service, which was killed, are ended: {_named(left)}.")
        end_session(record.launcher.pid)


def _named(processes: Sequence[psutil.Process]) -> str:
    named = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            named.append(f"{process.pid} ({process.name()})")
    return ", ".join(named)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
