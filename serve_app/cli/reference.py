"""``wan-serve settings``, ``api`` and ``commands``: what there is to set, to ask and to type."""

from dataclasses import asdict
from typing import Annotated

import typer

from wan_serve.commands.connection import AsJson
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.terminal import print_json

AsMarkdown = Annotated[bool, typer.Option("--markdown", help="As the page in the docs.")]


def settings(as_markdown: AsMarkdown = False, as_json: AsJson = False) -> int:
    """List every setting with its default and range."""
    from serve_app.config import settings_reference

    if as_json:
        print_json([asdict(group) for group in settings_reference.reference()])
    else:
        print(settings_reference.as_markdown() if as_markdown else settings_reference.as_text())
    return ExitStatus.OK


def api(
    as_markdown: AsMarkdown = False,
    as_json: Annotated[bool, typer.Option("--json", help="The OpenAPI document, as by default.")] = False,
) -> int:
    """Print the OpenAPI document, or the page of every route."""
    from serve_app.api import reference

    print(reference.as_markdown() if as_markdown and not as_json else reference.as_json())
    return ExitStatus.OK


def commands(as_markdown: AsMarkdown = False, as_json: AsJson = False) -> int:
    """Print every command and option, as JSON or as the page in the docs."""
    from serve_app.cli import command_reference

    if as_markdown and not as_json:
        print(command_reference.as_markdown())
    else:
        print_json([asdict(each) for each in command_reference.reference()])
    return ExitStatus.OK
