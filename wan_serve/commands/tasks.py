"""``wan-serve status``, ``list`` and ``download``: what is there, and how far it is."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wan_serve.client import Client
from wan_serve.commands.connection import AsJson, KeyFile, TaskId, Url, connect, connect_for_long
from wan_serve.commands.delivery import Open, place_of
from wan_serve.commands.following import left_of, state_of
from wan_serve.commands.terminal import NarrowingTable, output, print_json, seconds, table
from wan_serve.service import DEFAULT_URL
from wan_serve.task import Task

COLUMNS = ("task", "state", "done", "left", "model", "prompt")
_LESSER = ("model", "left", "done")
PAGE = 100

States = Annotated[
    str,
    typer.Option("--status", help="Only these: submitted, running, succeed, failed or cancelled."),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]
After = Annotated[str, typer.Option("--after", metavar="TASK", help="Only those older than this one.")]
Destination = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Or a folder; by default, this one."),
]
Some = Annotated[str | None, typer.Argument(metavar="TASK", help="Its id; else the whole service.")]


def row_of(task: Task) -> tuple[str, ...]:
    """Return a task's cells, below ``COLUMNS``."""
    state = state_of(task).removesuffix(" in the queue")
    left = "" if task.eta_seconds is None or task.has_ended else seconds(task.eta_seconds)
    prompt = task.document.get("prompt") or ""
    return task.id, state, f"{task.progress:.0%}", left, task.model, prompt


def task_table(tasks: Iterable[Task]) -> NarrowingTable:
    """Return tasks as a table that keeps room for their prompts."""
    return NarrowingTable(COLUMNS, list(map(row_of, tasks)), _LESSER)


def status(
    task_id: Some = None, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False
) -> None:
    """Say how far a task is, or what is going on."""
    with connect(url, key_file) as client:
        document = client.task(task_id).document if task_id else client.status()
    if as_json:
        print_json(document)
    elif task_id:
        _print_task(Task.of(document))
    else:
        output().print(service_table(document))


def list_tasks(
    states: States = "",
    limit: Limit = 20,
    after: After = "",
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List one's tasks, the newest first."""
    with connect(url, key_file) as client:
        found = list(_listed(client, states, limit, after))
    if as_json:
        print_json([task.document for task in found])
    else:
        output().print(task_table(found))


def download(
    task_id: TaskId,
    destination: Destination = None,
    is_opened: Open = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Store a finished video in a file."""
    with connect(url, key_file) as client:
        task = client.task(task_id)
    with connect_for_long(url, key_file) as client:
        stored = client.download(task.require_video(), place_of(task, destination))
    if as_json:
        print_json({"task_id": task.id, "file": str(stored)})
    else:
        print(stored)
    if is_opened:
        typer.launch(str(stored), wait=True)


def service_table(document: Mapping[str, Any]) -> Any:
    """Return a service's models with their queues and replicas as a table."""
    rows = [
        (
            name,
            f"{model['replicas']}" + (f" of {wanted}" if (wanted := model["wanted_replicas"]) else ""),
            model["running"],
            model["queued"],
            ", ".join(f"{each['device']} {str(each['health']).lower()}" for each in model["devices"])
            or "none",
        )
        for name, model in document["models"].items()
    ]
    return table(("model", "replicas", "running", "waiting", "devices"), rows)


def _print_task(task: Task) -> None:
    rows = [
        ("task", task.id),
        ("state", state_of(task)),
        ("done", f"{task.progress:.0%}"),
        ("left", left_of(task)),
        ("model", task.model),
        ("prompt", task.document.get("prompt") or ""),
        ("video", f"{task.width}x{task.height}, {task.num_frames} frames, {task.fps} a second"),
        ("seed", task.seed),
        ("error", task.error.message if task.error else ""),
        *(("note", note) for note in task.notes),
    ]
    found = table(("", " "), [row for row in rows if row[1] != ""])
    found.show_header = False
    output().print(found)


def _listed(client: Client, states: str, limit: int, after: str) -> Iterator[Task]:
    while limit > 0:
        page = client.tasks(status=states, limit=min(limit, PAGE), after=after)
        yield from page.tasks
        if not page.has_more or not page.tasks:
            return
        limit, after = limit - len(page.tasks), page.tasks[-1].id
