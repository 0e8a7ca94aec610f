"""The reference of the commands: each with its arguments and options, as the program itself has them.

``wan-serve commands`` prints it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from serve_app.cli.commands import program
from wan_serve.commands.connection import PANEL
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.program import NAME

COMMAND = "wan-serve commands --markdown > docs/cli.md"
"""The command that generates the page."""

_HEAD = f"""# The command line

`wan-serve` serves, makes videos with a running service, and says what is wrong with a machine. It comes with
the service; on a machine that serves nothing, the [client](client.md) has what needs a running one:

```bash
pip install './client[cli]'
```

```bash
wan-serve doctor serve_config.yaml       # whether this machine can serve it
wan-serve serve serve_config.yaml
wan-serve submit "a red ball moving left to right on a blue background" --seed 42 --output ball.mp4
wan-serve watch                          # the queue and the replicas, until Ctrl-C
```

Each command that asks a service takes `--url`, by default what the variable `WAN_SERVE_URL` holds, or
`http://127.0.0.1:8000`. The API key is in `WAN_SERVE_KEY` or in a file that `--key-file` names, never among
the arguments, which other users of a machine can see. With `--json` a command prints a JSON document on
standard output, `serve` and `watch` one on a line for each event; messages and progress go to standard error.
So do `generate` and most benchmarks of `bench`; `mcp` speaks JSON in any case.

`wan-serve --install-completion` has the shell complete commands and options.

Ctrl-C while a `submit` waits asks whether to cancel the task; the next one leaves, and the task goes on.

Generated: `{COMMAND}`

## Exit statuses

| Status | |
|---|---|"""

_TYPES = {"str": "text", "int": "a whole number", "float": "a number", "Path": "a path"}


@dataclass(frozen=True, slots=True)
class OptionEntry:
    """An option or an argument: its names, what it takes, and a sentence."""

    names: str
    takes: str
    sentence: str


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command: its panel in the help, its name with the arguments, a sentence, its options but for those of
    every command that asks a service.
    """

    panel: str
    usage: str
    sentence: str
    options: tuple[OptionEntry, ...]


def reference() -> tuple[CommandEntry, ...]:
    """List all commands but hidden ones, in the order of the help."""
    return tuple(_commands(typer.main.get_command(program()), NAME, ""))


def as_markdown() -> str:
    """Format the reference as the page ``docs/cli.md``."""
    found = reference()
    panels = [command.panel for command in found]
    lines = [_HEAD, *(f"| {status.value} | {status.meaning} |" for status in ExitStatus)]
    panel = ""
    for command in sorted(found, key=lambda each: panels.index(each.panel)):
        if command.panel != panel:
            panel = command.panel
            lines += ["", f"## {panel}"]
        lines += ["", f"### `{command.usage}`", "", command.sentence]
        if command.options:
            lines += ["", "| Option | Takes | |", "|---|---|---|"]
        for option in command.options:
            cells = (f"`{option.names}`", option.takes, option.sentence)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _commands(group: Any, path: str, panel: str) -> Iterator[CommandEntry]:
    for name, command in group.commands.items():
        own_panel = panel or command.rich_help_panel
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}", own_panel)
            continue
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        words = [_in_usage(argument) for argument in arguments]
        options = [
            _entry(each) for each in command.params if not each.hidden and each.rich_help_panel != PANEL
        ]
        usage = " ".join([path, name, *words, *(["…"] if _takes_any(command) else [])])
        yield CommandEntry(own_panel, usage, command.help, tuple(options))


def _in_usage(argument: Any) -> str:
    name: str = argument.display_name_raw
    return name if argument.required else f"[{name}]"


def _takes_any(command: Any) -> bool:
    return bool(command.context_settings.get("allow_extra_args"))


def _entry(parameter: Any) -> OptionEntry:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.display_name_raw if is_argument else ", ".join(parameter.opts)
    bare = parameter.bare_type().removeprefix("list[").removesuffix("]")
    takes = "" if bare == "bool" else parameter.metavar or _TYPES.get(bare, bare)
    if parameter.min is not None or parameter.max is not None:
        takes += f" from {parameter.min}" + ("" if parameter.max is None else f" to {parameter.max}")
    return OptionEntry(names, "" if is_argument else takes, parameter.help)
