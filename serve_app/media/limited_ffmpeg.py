"""ffmpeg as it reads what clients send: a child process of bounded memory and time.

It matters what ends it. A child that meets its limits, crashes or gives up has read something bad; one that
somebody else ends, as the kernel of a machine without memory does, tells nothing of the file.
"""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any

from serve_app.errors import FfmpegKilled

_STACK_KB = 1024
_HANGS_S = 10
"""Seconds beside twice the processor's, after which ffmpeg is taken to hang."""
_OWN_SIGNALS = frozenset(
    map(int, (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU))
)
"""What a program is ended by that fails by itself, or uses up its memory, its stack or its time."""
_TOLD_TO_END = 255
"""Exit status of an ffmpeg that was sent SIGTERM or the like, or whose time is over."""
_logger = logging.getLogger("ray.serve")


def run_limited(
    command: Sequence[str], file: IO[bytes], said: IO[Any] | int, *, limit_bytes: int, cpu_s: int
) -> bytes | None:
    """Return what ffmpeg writes to its output, None if it fails, or takes too long or too much.

    ``file`` is its input, ``said`` takes its messages. ``limit_bytes``: of its address space; ``cpu_s``:
    seconds of a processor, after which it is sent SIGXCPU, and a second later SIGKILL. Raises
    ``FfmpegKilled`` if anything else ends it, or if it hangs.
    """
    limits = f"ulimit -c 0; ulimit -s {_STACK_KB}; ulimit -v {limit_bytes // 1024}"
    limits += f"; ulimit -H -t {cpu_s + 1}; ulimit -S -t {cpu_s}"
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
        hangs = threading.Timer(2 * cpu_s + _HANGS_S, ffmpeg.kill)
        hangs.start()
        try:
            output = ffmpeg.stdout.read()
            # Not ``wait``: what the child has used is told once.
            _, status, used = os.wait4(ffmpeg.pid, 0)
            ffmpeg.returncode = os.waitstatus_to_exitcode(status)
        finally:
            hangs.cancel()
    if ffmpeg.returncode == 0:
        return output
    # The kernel counts the limit in ticks, and what was used exactly: near it, it was the limit.
    if used.ru_utime + used.ru_stime < cpu_s / 2 and was_killed(ffmpeg.returncode):
        raise killed(f"it ended with the status {ffmpeg.returncode}")
    return None


def was_killed(exit_status: int) -> bool:
    """Return whether somebody else has ended ffmpeg; ``exit_status`` as ``subprocess`` has it."""
    return exit_status == _TOLD_TO_END or (exit_status < 0 and -exit_status not in _OWN_SIGNALS)


def killed(reason: str) -> FfmpegKilled:
    """Log why ffmpeg has ended too early, and return what a client is told."""
    _logger.error("ffmpeg was ended while it read a file, by no fault of that: %s", reason)
    return FfmpegKilled("The service could not read the file, for a fault of its machine; try again.")
