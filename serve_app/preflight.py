"""``python -m serve_app.preflight serve_config.yaml``: what is wrong with it, said before Ray starts.

Ray Serve drops unknown keys of its own part in silence and goes on waiting when an application cannot be
built; this reads both parts and ends with status 2 and one sentence.
"""

import sys
from pathlib import Path

from serve_app.config_lint import lint, load
from serve_app.settings import SettingsError, parse_settings

_IMPORT_PATH = "serve_app.app:build"


def check(path: Path) -> None:
    """Raise ``SettingsError`` unless the file starts a service; makes the data folders."""
    config = load(path)
    lint(config)
    for application in config["applications"]:
        if application["import_path"] == _IMPORT_PATH:
            parse_settings(application.get("args") or {}, Path.cwd())


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 with the reason on standard error."""
    if len(arguments) != 1:
        print("usage: python -m serve_app.preflight CONFIG", file=sys.stderr)
        return 2
    try:
        check(Path(arguments[0]))
    except SettingsError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
