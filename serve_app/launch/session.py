"""A session of processes, as POSIX has them: what a service started, by the number of its first process."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

_END_S = 10.0
_PAUSE_S = 0.02


def members(leader: int) -> Sequence[psutil.Process]:
    """Return the living processes, but for this one, of the session that ``leader`` began.

    The leader may have ended.
    """
    found = []
    for pid in psutil.pids():
        with suppress(OSError, psutil.NoSuchProcess):
            if pid not in (0, os.getpid()) and os.getsid(pid) == leader:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def end_session(leader: int) -> Sequence[psutil.Process]:
    """Kill every process of a session but this one; return those that a kill does not end."""
    ends_at = time.monotonic() + _END_S
    while (living := members(leader)) and time.monotonic() < ends_at:
        for process in living:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(_PAUSE_S)
    return living
