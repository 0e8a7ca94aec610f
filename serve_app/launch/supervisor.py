"""The supervisor: runs the service in a session of its own, and ends what is left of it.

A signal to the process group, as terminals and many supervisors send it, would reach Ray's processes before
the launcher can drain: in a session of their own they do not hear it. And whichever of them outlives the
launcher, as HAProxy may, is known by that session.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


def supervise(serve: Callable[[], int]) -> int:
    """Run ``serve`` in a child process, which begins a new session, and return its exit status.

    A signal to stop is passed on to the child, as SIGTERM, and when the child has ended, so does every other
    process of its session. When this process is killed, the child is told to stop (on Linux), and does the
    same. The status of a child that a signal ends is 0 if it was to stop, else 1.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    parent, child = os.getpid(), os.fork()
    if not child:
        _begin_session(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        try:
            return serve()
        finally:
            if os.getppid() != parent:
                _end(os.getpid())

    stops: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        stops.append(number)
        os.kill(child, signal.SIGTERM)

    for number in _STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    # Until it is reaped nobody else gets its number, which is that of the session.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    _end(child)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status >= 0 or stops:
        return max(status, 0)
    print(f"The service was ended by {signal.Signals(-status).name}.", file=sys.stderr, flush=True)
    return 1


def _begin_session(parent: int) -> None:
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # which was killed before that
        os._exit(1)


def _end(session: int) -> None:
    # Not before: until then this process needs next to no memory.
    from serve_app.launch.session import end_session

    for process in end_session(session):
        print(f"Process {process.pid} of the service cannot be ended.", file=sys.stderr, flush=True)
