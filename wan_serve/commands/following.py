"""A task followed to its end: the bar on the terminal, and what Ctrl-C does there."""

import sys

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from wan_serve.client import Client
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.terminal import complain, seconds, shown
from wan_serve.task import Task


def follow(client: Client, task: Task) -> Task:
    """Return the task once it has ended. The first Ctrl-C asks whether to cancel it; the next one leaves.

    Raises ``typer.Exit`` where the user leaves.
    """
    may_ask = sys.stdin.isatty() and sys.stderr.isatty()
    while True:
        try:
            return _waited_for(client, task)
        except KeyboardInterrupt:
            if not may_ask:
                raise _left(task) from None
            may_ask = False
        if _wants_cancel(task):
            return client.cancel(task)


def _waited_for(client: Client, task: Task) -> Task:
    bar = ProgressBar()
    try:  # not a context manager: Ctrl-C may come while it starts
        bar.show(task)
        bar.start()
        return client.wait(task, on_progress=bar.show)
    finally:
        bar.stop()


def state_of(task: Task) -> str:
    """Return what a task is at, in a few words."""
    if task.status == "submitted":
        place = task.queue_position
        return "waiting" if place is None else f"waiting, number {place} in the queue"
    return task.phase or task.status


def left_of(task: Task) -> str:
    """Return how long a task still takes, empty where nobody knows."""
    return "" if task.eta_seconds is None or task.has_ended else f"about {seconds(task.eta_seconds)} left"


class ProgressBar:
    """A bar on standard error, if that is a terminal; it is gone once the task has ended."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=1.0, left="")

    def start(self) -> None:
        """Begin to draw."""
        self._progress.start()

    def stop(self) -> None:
        """End drawing, whether or not it has begun, and clear the line."""
        self._progress.stop()

    def show(self, task: Task) -> None:
        """Draw a task as it stands."""
        self._progress.update(
            self._bar, completed=task.progress, description=shown(state_of(task)), left=left_of(task)
        )


def _wants_cancel(task: Task) -> bool:
    try:
        return typer.confirm(f"Cancel the task {shown(task.id)}?", err=True)
    except (typer.Abort, KeyboardInterrupt):
        raise _left(task) from None


def _left(task: Task) -> typer.Exit:
    complain(f"The task goes on; see wan-serve status {task.id}.")
    return typer.Exit(ExitStatus.INTERRUPTED)
