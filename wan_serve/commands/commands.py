"""The commands of a client, in the order of the help."""

from collections.abc import Callable, Mapping

import typer

from wan_serve.commands.models import models
from wan_serve.commands.queue import cancel, finish, pause, put_next, resume
from wan_serve.commands.submit import again, submit
from wan_serve.commands.tasks import download, list_tasks, status
from wan_serve.commands.watch import watch

SERVICE_PANEL = "A running service"
ABOUT = "Make videos with a running Wan Serve."

_OF_VIDEOS: Mapping[str, Callable[..., None]] = {
    "submit": submit,
    "again": again,
    "list": list_tasks,
    "download": download,
    "cancel": cancel,
    "next": put_next,
    "finish": finish,
    "pause": pause,
    "resume": resume,
}
_OF_THE_SERVICE: Mapping[str, Callable[..., None]] = {
    "status": status,
    "watch": watch,
    "models": models,
}


def add_commands(app: typer.Typer) -> None:
    """Add the commands of a client to a program."""
    for panel, commands in (("Videos", _OF_VIDEOS), (SERVICE_PANEL, _OF_THE_SERVICE)):
        for name, command in commands.items():
            app.command(name, rich_help_panel=panel)(command)
