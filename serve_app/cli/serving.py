"""``wan-serve serve``, ``check``, ``doctor`` and ``migrate``: a service, and what it stands on."""

from pathlib import Path
from typing import Annotated

import typer

from wan_serve.commands.connection import AsJson
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.terminal import print_json

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A Ray Serve configuration file.")]
MaybeConfig = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="A Ray Serve configuration file; else the machine alone."),
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="In place of the one in CONFIG.")]
Replicas = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Of every model, in place of the number in CONFIG.")
]
HasDashboard = Annotated[
    bool,
    typer.Option(
        "--dashboard/--no-dashboard",
        help="Whether Ray's dashboard is started, of 270 MB and 2 % of a core, which also writes the file by "
        "which Prometheus finds the metrics.",
    ),
]
Target = Annotated[
    str,
    typer.Argument(metavar="CONFIG|URL", help="A configuration file, or a database as database_url has it."),
]
AsEvents = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON for each event: ready, draining or failed.")
]
IsCheck = Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if it is behind.")]
AsSql = Annotated[bool, typer.Option("--sql", help="Change nothing; print the statements.")]


def serve(
    config: Config,
    port: Port = None,
    replicas: Replicas = None,
    dashboard: HasDashboard = True,
    as_json: AsEvents = False,
) -> int:
    """Serve a configuration until Ctrl-C or SIGTERM."""
    from serve_app.launch.supervisor import supervise

    def serving() -> int:
        from serve_app.launch.launch import launch

        return launch(config, port=port, replicas=replicas, has_dashboard=dashboard, as_json=as_json)

    return supervise(serving)


def check(config: Config, as_json: AsJson = False) -> int:
    """Say what is wrong with a configuration, without starting it."""
    from serve_app.config import preflight
    from serve_app.config.section import SettingsError

    if not as_json:
        return preflight.report(config)

    try:
        preflight.check(config)
    except SettingsError as error:
        print_json({"config": str(config), "is_valid": False, "reason": str(error)})
        return ExitStatus.USAGE
    print_json({"config": str(config), "is_valid": True, "reason": None})
    return ExitStatus.OK


def doctor(config: MaybeConfig = None, as_json: AsJson = False) -> int:
    """Say whether this machine can serve, and what to do where it cannot; exit with 1 on a problem."""
    from serve_app.doctor.doctor import examine
    from serve_app.doctor.report import as_document, print_findings

    findings = examine(config)
    if as_json:
        print_json(as_document(findings))
    else:
        print_findings(findings)
    return ExitStatus.FAILED if any(each.is_problem for each in findings) else ExitStatus.OK


def migrate(target: Target, is_check: IsCheck = False, as_sql: AsSql = False, as_json: AsJson = False) -> int:
    """Bring a database's schema to this version."""
    if as_sql and (is_check or as_json):
        raise typer.BadParameter("--sql stands alone")
    from serve_app.launch.migrate import migrate as migrated

    return migrated(target, is_check=is_check, as_sql=as_sql, as_json=as_json)
