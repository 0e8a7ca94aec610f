"""All commands of ``wan-serve``, in the order of the help. What a command needs is imported when it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from serve_app.cli.handed_on import bench, drill, generate
from serve_app.cli.keys import list_keys, make_key
from serve_app.cli.mcp import mcp
from serve_app.cli.reference import api, commands, settings
from serve_app.cli.serving import check, doctor, migrate, serve
from wan_serve.commands import commands as of_a_client
from wan_serve.commands.program import new_app, run

_PANELS: Mapping[str, Mapping[str, Callable[..., int]]] = {
    "Serve": {"serve": serve, "check": check, "doctor": doctor, "migrate": migrate},
    "Reference": {"settings": settings, "api": api},
}
_HANDED_ON: Mapping[str, Mapping[str, Callable[..., int]]] = {
    "Without a service": {"generate": generate},
    "In a checkout": {"bench": bench, "drill": drill},
}
_AS_THEY_ARE: Mapping[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
"""Arguments, --help among them, that are another program's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the command line) name; return the exit status."""
    return run(program(), arguments)


def program() -> typer.Typer:
    """Return the program with all its commands."""
    app = new_app("Serve Wan models on Ray Serve, and make videos with them.")
    serving, reference = _PANELS
    _add(app, serving, _PANELS[serving])
    of_a_client.add_commands(app)
    app.command("mcp", rich_help_panel=of_a_client.SERVICE_PANEL)(mcp)
    app.add_typer(_keys(), name="keys", rich_help_panel=serving)
    for panel, handed_on in _HANDED_ON.items():
        _add(app, panel, handed_on, context_settings=dict(_AS_THEY_ARE))
    _add(app, reference, _PANELS[reference])
    app.command("commands", hidden=True)(commands)
    app.command("run", hidden=True)(serve)
    return app


def _keys() -> typer.Typer:
    keys = typer.Typer(help="API keys: make one, or list those of a configuration.")
    keys.command("make")(make_key)
    keys.command("list")(list_keys)
    return keys


def _add(app: typer.Typer, panel: str, commands: Mapping[str, Callable[..., int]], **how: Any) -> None:
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel, **how)(command)
