"""Exit statuses of the commands, the same for all."""

from enum import IntEnum

from wan_serve.errors import Refused, TaskCancelled, TaskFailed, Unreachable, WanServeError


class ExitStatus(IntEnum):
    """What a command's end means to a script."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    TASK_FAILED = 5
    CANCELLED = 6
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """A phrase for the docs."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitStatus.OK: "done",
    ExitStatus.FAILED: "failed here: a file, a port or a check",
    ExitStatus.USAGE: "a wrong command line or configuration",
    ExitStatus.REFUSED: "the service refused the request",
    ExitStatus.UNREACHABLE: "no service answers at the address",
    ExitStatus.TASK_FAILED: "the task failed",
    ExitStatus.CANCELLED: "the task was cancelled",
    ExitStatus.INTERRUPTED: "Ctrl-C",
}

_OF_ERRORS = (
    (Refused, ExitStatus.REFUSED),
    (Unreachable, ExitStatus.UNREACHABLE),
    (TaskFailed, ExitStatus.TASK_FAILED),
    (TaskCancelled, ExitStatus.CANCELLED),
)


def status_of(error: WanServeError) -> ExitStatus:
    """Return the exit status that an error of the client ends a command with."""
    return next((status for kind, status in _OF_ERRORS if isinstance(error, kind)), ExitStatus.FAILED)
