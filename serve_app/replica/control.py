"""The interface of a run to the coordinator. Imports no Ray."""

from typing import Protocol

from serve_app.tasks.command import Command
from serve_app.tasks.run_report import RunReport
from serve_app.tasks.run_result import RunResult
from serve_app.tasks.task import Task, TaskError


class Control(Protocol):
    """The interface of a run to the coordinator; every call waits for the answer."""

    async def report(self, uid: str, attempt: int, report: RunReport) -> Command:
        """Report a run's progress; return what is to be done with the run."""

    async def publish(self, uid: str, attempt: int, result: RunResult) -> bool:
        """Commit a run's video; return False if the attempt is no longer current."""

    async def fail(self, uid: str, attempt: int, error: TaskError) -> bool:
        """Commit a run's error; return False if the attempt is no longer current."""

    async def give_up(self, uid: str, attempt: int) -> bool:
        """Return a task to the queue whose attempt the machine has failed, and count it; False if the attempt
        is no longer current.
        """

    async def hand_back(self, task: Task) -> None:
        """Return a task to the queue; the attempt does not count."""
