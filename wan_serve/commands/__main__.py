"""``wan-serve`` of the client's own package; ``python -m wan_serve.commands`` is the same."""

import sys


def main() -> int:
    """Run the command line and return the exit status."""
    try:
        from wan_serve.commands.commands import ABOUT, add_commands
        from wan_serve.commands.program import new_app, run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print('wan-serve needs the extra cli: pip install "wan-serve-client[cli]"', file=sys.stderr)
        return 1
    app = new_app(ABOUT)
    add_commands(app)
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
