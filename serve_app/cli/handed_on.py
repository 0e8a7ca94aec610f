"""``wan-serve generate``, ``bench`` and ``drill``: programs of their own, which this one becomes."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.terminal import complain

ROOT = Path(__file__).parents[2]
"""The checkout, or where the packages are installed."""


def generate(context: typer.Context) -> int:
    """Make one video on this machine's devices; wan-serve generate --help lists its options."""
    _become("offline.cli", context.args)


def bench(context: typer.Context) -> int:
    """Measure: a benchmark's name and its arguments; wan-serve bench --help lists them."""
    return _in_checkout("bench", "bench", context.args)


def drill(context: typer.Context) -> int:
    """Kill parts of a service at random and check its promises; wan-serve drill --help lists its options."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return _in_checkout("drill", "testbed.drill", context.args)


def _in_checkout(command: str, module: str, arguments: list[str]) -> int:
    if not (ROOT / module.replace(".", "/") / "__main__.py").is_file():
        complain(f"wan-serve {command} needs a checkout of the repository, and {ROOT} is none.")
        return ExitStatus.FAILED
    os.chdir(ROOT)
    _become(module, arguments)


def _become(module: str, arguments: list[str]) -> NoReturn:
    # -P: nothing is imported from the folder that the command is called in, which may have a folder "models".
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])
