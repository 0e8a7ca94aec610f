"""What can go wrong when a service is asked.

Each line is an error, and below it the kinds of it:

- ``WanServeError``
    - ``Unreachable``: no service answers
    - ``Refused``: the service refused a request; ``status``, ``code``, ``detail``, ``field``
    - ``NoVideo``: a task ended without a video; ``task``
        - ``TaskFailed``
        - ``TaskCancelled``
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_serve.task import Task


class WanServeError(Exception):
    """A request that came to nothing; its text is one sentence."""


class Unreachable(WanServeError):
    """Nothing answers at the service's address, or what answers is no Wan Serve."""


class Refused(WanServeError):
    """A request that the service refused."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str = "",
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """``detail``: the service's sentence; ``status``: of HTTP; ``field``: the one at fault."""
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s


class NoVideo(WanServeError):
    """A task that ended without a video."""

    def __init__(self, task: "Task") -> None:
        """``task`` has ended."""
        super().__init__(task.error.message if task.error else task.message)
        self.task = task


class TaskFailed(NoVideo):
    """A task that failed; ``task.error`` says why."""


class TaskCancelled(NoVideo):
    """A task that was cancelled."""
