"""``wan-serve cancel``, ``next``, ``finish``, ``pause`` and ``resume``: the queue worked with."""

from typing import Annotated

import typer

from wan_serve.commands.connection import AsJson, KeyFile, TaskId, TaskIds, Url, connect
from wan_serve.commands.following import state_of
from wan_serve.commands.terminal import print_json, shown
from wan_serve.service import DEFAULT_URL
from wan_serve.task import Task

All = Annotated[bool, typer.Option("--all", help="All that are one's own and wait or run.")]
Waiting = Annotated[bool, typer.Option("--waiting", help="All that are one's own and wait.")]


def cancel(
    task_ids: TaskIds = None,
    everything: All = False,
    waiting: Waiting = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Cancel tasks; one that has ended stays as it is."""
    if bool(task_ids) + everything + waiting != 1:
        raise typer.BadParameter("give tasks, or --all, or --waiting")
    with connect(url, key_file) as client:
        if not task_ids:
            outcome = client.cancel_all(waiting_only=waiting)
            print_json(outcome) if as_json else print(shown(str(outcome["reason"])))
            return
        cancelled = [client.cancel(task_id) for task_id in task_ids]
    if as_json:
        print_json([task.document for task in cancelled])
    else:
        for task in cancelled:
            _tell(task)


def put_next(
    task_id: TaskId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False
) -> None:
    """Put a waiting task before one's others."""
    with connect(url, key_file) as client:
        task = client.put_next(task_id)
    print_json(task.document) if as_json else _tell(task)


def finish(
    task_id: TaskId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False
) -> None:
    """Have a running task end with what it has made so far."""
    with connect(url, key_file) as client:
        task = client.finish_early(task_id)
    print_json(task.document) if as_json else _tell(task)


def pause(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Begin none of one's waiting tasks."""
    with connect(url, key_file) as client:
        queue = client.pause()
    if as_json:
        print_json(queue)


def resume(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """End a pause."""
    with connect(url, key_file) as client:
        queue = client.resume()
    if as_json:
        print_json(queue)


def _tell(task: Task) -> None:
    print(f"{shown(task.id)}: {shown(state_of(task))}")
