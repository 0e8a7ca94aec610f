"""The check of a whole configuration before Ray starts.

Ray Serve silently drops unknown keys of its own part and waits for ever when an application cannot be built.
The check reads both parts and reports the first fault in one sentence.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.config.config_lint import lint, load
from serve_app.config.section import SettingsError
from serve_app.config.settings import parse_settings

IMPORT_PATH = "serve_app.app:build"
_POLICY = "serve_app.scaling_policy:policy"


def check(path: Path) -> None:
    """Raise ``SettingsError`` unless the file starts a service; makes the data folders."""
    config = load(path)
    lint(config)
    for index, application in enumerate(config["applications"]):
        if application["import_path"] == IMPORT_PATH:
            settings = parse_settings(application.get("args") or {}, Path.cwd())
            if any(model.by_work for model in settings.models):
                _require_policy(application, index)


def _require_policy(application: Mapping[str, Any], index: int) -> None:
    """Require the autoscaling policy: without it Serve would silently scale by the number of requests."""
    if (application.get("autoscaling_policy") or {}).get("policy_function") != _POLICY:
        raise SettingsError(
            f"applications[{index}].autoscaling_policy: a model scales by work, so it must be "
            f"{{policy_function: {_POLICY}}}; or set `by: requests` in the model's autoscaling."
        )


def report(path: Path) -> int:
    """Check the file and return the exit status: 0, or 2 with the reason on standard error."""
    try:
        check(path)
    except SettingsError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    return 0
