"""A command line from its beginning to its exit status."""

from collections.abc import Sequence

import typer

from wan_serve.commands.exit_status import ExitStatus, status_of
from wan_serve.commands.terminal import complain
from wan_serve.errors import WanServeError

NAME = "wan-serve"


def new_app(about: str) -> typer.Typer:
    """Return a program without commands yet."""
    return typer.Typer(
        name=NAME,
        help=about,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the command line) name; return the exit status.

    What a user can cause ends in one sentence on standard error.
    """
    command = typer.main.get_command(app)
    try:
        returned = command.main(args=arguments, prog_name=NAME, standalone_mode=False)
    except typer.TyperException as error:
        complain(_of_usage(error))
        return error.exit_code
    except typer.Abort:
        return ExitStatus.INTERRUPTED
    except WanServeError as error:
        complain(error)
        return status_of(error)
    except OSError as error:
        if error.filename is None:
            raise
        complain(f"{error.filename}: {error.strerror}.")
        return ExitStatus.FAILED
    return int(returned or ExitStatus.OK)


def _of_usage(error: typer.TyperException) -> str:
    said = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    path = NAME if context is None else context.command_path
    return f"{path}: {said}. See {path} --help."
