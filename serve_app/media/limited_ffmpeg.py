"""ffmpeg as it reads what clients send: a child process of bounded memory and time.

It matters what ends it. A child that meets its limits, crashes or gives up has read something bad; one that
somebody else ends, as the kernel of a machine without memory does, tells nothing of the file.
"""

import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import psutil

from serve_app.errors import FfmpegKilled

_STACK_KB = 1024
_HANGS_S = 10
"""Seconds beside twice the processor's, after which ffmpeg is taken to hang."""
_LOOK_S = 0.05
"""Seconds between two looks at how much it has used."""
_OWN_SIGNALS = frozenset(
    map(int, (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU))
)
"""What a program is ended by that fails by itself, or uses up its memory, its stack or its time."""
_TOLD_TO_END = 255
"""Exit status of an ffmpeg that was sent SIGTERM or the like, or whose time is over."""
_logger = logging.getLogger("ray.serve")


def run_limited(
    command: Sequence[str], file: IO[bytes], said: IO[Any] | int, *, limit_bytes: int, cpu_s: float
) -> bytes | None:
    """Return what ffmpeg writes to its output, None if it fails, or takes too long or too much.

    ``file`` is its input, ``said`` takes its messages. ``limit_bytes``: of its address space; ``cpu_s``:
    seconds of a processor, after which it is killed; the kernel does so, too, but counts whole ones. Raises
    ``FfmpegKilled`` if anything else ends it, or if it hangs.
    """
    whole_s = math.ceil(cpu_s)
    limits = f"ulimit -c 0; ulimit -s {_STACK_KB}; ulimit -v {limit_bytes // 1024}"
    limits += f"; ulimit -H -t {whole_s + 1}; ulimit -S -t {whole_s}"
    try:
        ffmpeg = subprocess.Popen(
            ["/bin/sh", "-c", f'{limits}; exec "$@"', "sh", *command],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=said,
            env={"MALLOC_ARENA_MAX": "1"},  # each arena would take 64 MB of address space
        )
    except OSError as error:  # there is no process, no memory or no descriptor to be had
        raise killed(error.strerror or "it could not be started") from error
    with ffmpeg:
        assert ffmpeg.stdout is not None
        has_ended = threading.Event()
        threading.Thread(target=_watch, args=(ffmpeg.pid, cpu_s, has_ended)).start()
        try:
            output = ffmpeg.stdout.read()
            # Not ``wait``: what the child has used is told once.
            _, status, used = os.wait4(ffmpeg.pid, 0)
            ffmpeg.returncode = os.waitstatus_to_exitcode(status)
        finally:
            has_ended.set()
    if ffmpeg.returncode == 0:
        return output
    # The limit is looked at now and then, and counted in ticks: near it, it was the limit.
    if used.ru_utime + used.ru_stime < cpu_s / 2 and was_killed(ffmpeg.returncode):
        raise killed(f"it ended with the status {ffmpeg.returncode}")
    return None


def _watch(pid: int, cpu_s: float, has_ended: threading.Event) -> None:
    """Kill a child once it has used its time, or hangs."""
    hangs_at = time.monotonic() + 2 * cpu_s + _HANGS_S
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(pid)
        while not has_ended.wait(_LOOK_S):
            used = child.cpu_times()
            if used.user + used.system >= cpu_s or time.monotonic() >= hangs_at:
                child.kill()
                return


def was_killed(exit_status: int) -> bool:
    """Return whether somebody else has ended ffmpeg; ``exit_status`` as ``subprocess`` has it."""
    return exit_status == _TOLD_TO_END or (exit_status < 0 and -exit_status not in _OWN_SIGNALS)


def killed(reason: str) -> FfmpegKilled:
    """Log why ffmpeg has ended too early, and return what a client is told."""
    _logger.error("ffmpeg was ended while it read a file, by no fault of that: %s", reason)
    return FfmpegKilled("The service could not read the file, for a fault of its machine; try again.")
