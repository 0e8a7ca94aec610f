"""``wan-serve keys``: API keys made, and those of a configuration listed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.serving import Config
from wan_serve.commands.connection import AsJson
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.terminal import complain, print_json, print_table

if TYPE_CHECKING:
    from serve_app.config.key_settings import KeySettings

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Of the key: the owner of its tasks, and of a folder for their videos."
    ),
]


def make_key(name: Name, as_json: AsJson = False) -> int:
    """Make an API key and a webhook secret. The key is shown once; the configuration holds its hash."""
    from serve_app.config.made_key import MadeKey
    from serve_app.config.section import SettingsError

    key = MadeKey.new(name)
    try:
        _checked(key.configured)
    except SettingsError as error:
        complain(error)
        return ExitStatus.USAGE
    if as_json:
        print_json({"key": key.key, **key.configured})
    else:
        print(key.as_text())
    return ExitStatus.OK


def list_keys(config: Config, as_json: AsJson = False) -> int:
    """List the API keys of a configuration, without their secrets."""
    from serve_app.config.section import SettingsError

    try:
        rows = _rows(config)
    except SettingsError as error:
        complain(f"{config}: {error}")
        return ExitStatus.USAGE
    columns = ("name", "admin", "weight", "max_queued", "max_running", "sha256")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
    return ExitStatus.OK


def _rows(config: Path) -> list[tuple[str | bool | float | None, ...]]:
    from serve_app.config.config_lint import load

    keys = [
        _checked(key)
        for application in load(config).get("applications") or []
        for key in (application.get("args") or {}).get("keys") or []
    ]
    return [(key.name, key.admin, key.weight, key.max_queued, key.max_running, key.sha256) for key in keys]


def _checked(key: Any) -> "KeySettings":
    from pydantic import ValidationError

    from serve_app.config.key_settings import KeySettings
    from serve_app.config.section import SettingsError
    from serve_app.findings import path, reason

    try:
        return KeySettings.model_validate(key)
    except ValidationError as error:
        finding = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(f"{path(('keys', *finding['loc']))}: {reason(finding)}.") from None
