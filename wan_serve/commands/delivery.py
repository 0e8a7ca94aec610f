"""What a submit or a download ends with: a task's id, its document, or the video in a file."""

import re
from pathlib import Path
from typing import Annotated

import typer

from wan_serve.commands.connection import connect_for_long
from wan_serve.commands.following import follow
from wan_serve.commands.terminal import complain, print_json, shown
from wan_serve.task import Task

_ENDINGS = {"png-zip": "zip"}

Wait = Annotated[bool, typer.Option("--wait", help="Show how far it is until it has ended.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Wait, and store the video there; a folder will do.",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Wait, store the video, and show it.")]


def deliver(
    task: Task,
    url: str,
    key_file: Path | None,
    *,
    wait: bool,
    output: Path | None,
    is_opened: bool,
    as_json: bool,
) -> None:
    """Print the id or the document of a submitted task; first wait for it and store it, where that is asked.

    Raises ``TaskFailed`` or ``TaskCancelled`` where it was waited for and there is no video.
    """
    for note in task.notes:
        complain(f"Note: {note}")
    if not (wait or output or is_opened):
        print_json(task.document) if as_json else print(shown(task.id))
        return
    with connect_for_long(url, key_file) as client:
        ended = follow(client, task)
        if as_json:
            print_json(ended.document)
        ended.require_video()
        stored = client.download(ended, place_of(ended, output)) if output or is_opened else None
    if not as_json:
        print(shown(task.id) if stored is None else stored)
    if stored is not None and is_opened:
        typer.launch(str(stored), wait=True)


def place_of(task: Task, output: Path | None) -> Path:
    """Return the file for a task's video: ``output``, or by the task's id in that folder or in this one."""
    if output is not None and not output.is_dir():
        return output
    # An id is what a service says it is: it must not lead to another folder.
    name = re.sub(r"[^\w.-]", "_", task.id, flags=re.ASCII).lstrip(".") or "video"
    ending = _ENDINGS.get(task.format, task.format)
    return (output or Path()) / f"{name}.{re.sub(r'[^a-z0-9]', '', ending) or 'mp4'}"
