"""The command line ``wan-serve COMMAND``: a table of commands, each imported only when it runs."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its help line, its arguments, and ``run``, which returns the exit status."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the command line) name; return the exit status."""
    parsed = _parser().parse_args(arguments)
    return COMMANDS[parsed.command].run(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wan-serve", description="Serve Wan models on Ray Serve.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        described = f"{command.summary[0].upper()}{command.summary[1:]}."
        command.add_arguments(commands.add_parser(name, help=command.summary, description=described))
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a Ray Serve configuration file")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    add = parser.add_argument
    add("--port", type=int, choices=range(1, 65536), metavar="1-65535", help="instead of the one in CONFIG")
    add(
        "--replicas",
        type=int,
        choices=range(1, 1025),
        metavar="1-1024",
        help="of every model, instead of the number in CONFIG",
    )


def _run(arguments: argparse.Namespace) -> int:
    from serve_app.launch.supervisor import supervise

    def serve() -> int:
        from serve_app.launch.launch import launch

        return launch(arguments.config, port=arguments.port, replicas=arguments.replicas)

    return supervise(serve)


def _check(arguments: argparse.Namespace) -> int:
    from serve_app.config.preflight import report

    return report(arguments.config)


def _add_migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="CONFIG|URL",
        help="a Ray Serve configuration file, or the address of a database as database_url has it",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="change nothing; exit with 1 if it is behind")
    instead.add_argument("--sql", action="store_true", help="change nothing; print the statements")


def _migrate(arguments: argparse.Namespace) -> int:
    from serve_app.launch.migrate import migrate

    return migrate(arguments.target, is_check=arguments.check, as_sql=arguments.sql)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="as the page in the docs")


def _settings(arguments: argparse.Namespace) -> int:
    from serve_app.config.settings_reference import as_markdown, as_text

    print(as_markdown() if arguments.markdown else as_text())
    return 0


def _add_api(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="as the page in the docs")


def _api(arguments: argparse.Namespace) -> int:
    from serve_app.api.reference import as_json, as_markdown

    print(as_markdown() if arguments.markdown else as_json())
    return 0


def _add_mcp(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="of the service (default: %(default)s)")
    add(
        "--http",
        type=int,
        choices=range(1, 65536),
        metavar="1-65535",
        help="a port of 127.0.0.1 for streamable HTTP, where callers send their own API keys; default: "
        "stdio, with the key in WAN_SERVE_KEY",
    )


def _mcp(arguments: argparse.Namespace) -> int:
    try:
        from serve_app.mcp.server import run
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        print('wan-serve mcp needs the extra mcp: pip install "wan-serve[mcp]"', file=sys.stderr)
        return 2
    return run(arguments.url, arguments.http)


COMMANDS: Mapping[str, Command] = {
    "run": Command("serve a configuration until Ctrl-C or SIGTERM", _add_run, _run),
    "check": Command("say what is wrong with a configuration, without starting it", _add_config, _check),
    "migrate": Command("bring a database's schema to this version", _add_migrate, _migrate),
    "settings": Command("list every setting with its default and range", _add_settings, _settings),
    "api": Command("print the OpenAPI document, or the page of every route", _add_api, _api),
    "mcp": Command("offer a running service to language models, as tools (MCP)", _add_mcp, _mcp),
}


if __name__ == "__main__":
    sys.exit(main())
